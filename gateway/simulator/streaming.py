"""Writes a response's events to a connection at their times, and breaks the connection where the scenario says so."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Iterator

from aiohttp import web

from gateway.simulator.scenarios import Cut
from gateway.simulator.script import events
from gateway.simulator.world import Connection, Interrupted, Record, World

_CHUNK_BYTES = 64 * 1024
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_FLUSH_S = 5.0


async def send_events(
    world: World, record: Record, request: web.Request, *, after: int = -1, replayed: bool = False
) -> web.StreamResponse:
    """Answer with the events whose cursor is above `after`: those that have come at once, the others when they come.

    Ends cleanly after the last event or at a cancel, else as the scenario or an order to cut says.
    """
    response = web.StreamResponse(
        headers={"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
    )
    try:
        with attached(record, request) as connection:
            await response.prepare(request)
            await _write(world, record, connection, response, after, replayed)
    except Interrupted as interrupted:
        await break_connection(request, interrupted.how)
    except ConnectionError:
        pass  # the client has gone
    return response


@contextlib.contextmanager
def attached(record: Record, request: web.Request) -> Iterator[Connection]:
    """While a connection carries a response. Leaving by an exception stops one in the foreground, as upstream does."""
    connection = Connection(request)
    record.connections.add(connection)
    try:
        yield connection
    except BaseException:
        record.stopped = record.stopped or not record.plan.background
        raise
    finally:
        record.connections.discard(connection)


async def _write(
    world: World,
    record: Record,
    connection: Connection,
    response: web.StreamResponse,
    after: int,
    replayed: bool,
) -> None:
    """Raises Interrupted where the stream is cut, ConnectionError where the client has gone."""
    scenario = record.plan.scenario
    cuts = scenario.cut is not None and (scenario.cuts == 0 or record.cuts_made < scenario.cuts)
    sent, batch = 0, bytearray()
    for event in events(record.plan):
        if event.cursor <= after:
            continue
        if event.age_s > world.age(record) or len(batch) >= _CHUNK_BYTES:
            await _flush(response, batch)
            await world.wait(record, event.age_s, connection)
        if not record.reaches(event.age_s):
            break
        frame = event.frame(replayed=replayed, foreign=scenario.foreign_framing)
        if cuts and sent == scenario.after:
            record.cuts_made += 1
            batch += frame[: len(frame) // 2] if scenario.cut == "half" else b""
            await _flush(response, batch)
            raise Interrupted(scenario.cut)
        batch += frame
        sent += 1
    await _flush(response, batch)
    await world.wait(record, record.plan.end_s, connection)
    if scenario.foreign_framing:
        await response.write(b"data: [DONE]\n\n")


async def _flush(response: web.StreamResponse, batch: bytearray) -> None:
    if batch:
        await response.write(bytes(batch))
        batch.clear()


async def break_connection(request: web.Request, how: Cut | None = "reset") -> None:
    """Cut a connection once what was written has left: by a TCP reset or, `half`, by closing it within the body.

    `eof` leaves it to the server to end the body properly, None is for a client that has gone: both do nothing.
    """
    transport = request.transport
    if transport is None or how in ("eof", None):
        return
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_FLUSH_S):
            # A transport tells by no event that its buffer has left.
            while not transport.is_closing() and transport.get_write_buffer_size():  # noqa: ASYNC110
                await asyncio.sleep(0.002)
    if how == "half":
        transport.close()
        return
    connection = transport.get_extra_info("socket")
    if connection is not None:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    transport.abort()
