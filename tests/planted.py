"""The gateway with bugs planted in it that quote what they meet. Run with the arguments of the command line."""

import asyncio
import threading
from typing import Any

from aiohttp import web

from gateway import cli
from gateway.domain import mode
from gateway.edge import server
from gateway.relay.ledger import Ledger

_read, _receive, _settle = mode.read, Ledger.receive, server.settle_headers
_forgotten: list[Any] = []


class _Unraisable:
    def __init__(self, words: str) -> None:
        self._words = words

    def __del__(self) -> None:
        raise ValueError(self._words)


def _raise(words: Any) -> None:
    raise ValueError(words)


async def _never_retrieved(words: str) -> None:
    _raise(words)


def _planted_read(body: bytes) -> Any:
    if b"bug in the handler" in body:
        _raise(body)
    if b"bug where nobody catches" in body:
        words = body.decode()
        _Unraisable(words)
        threading.Thread(target=_raise, args=(words,), name=words).start()
        asyncio.get_running_loop().create_task(_never_retrieved(words), name=words)
    return _read(body)


async def _planted_receive(self: Ledger, live: Any, events: Any) -> None:
    for event in events:
        if b"bug in the pump" in event.data:
            _raise(event.data)
    await _receive(self, live, events)


async def _planted_settle(request: web.Request, response: web.StreamResponse) -> None:
    if request.headers.get("X-Bug") == "headers":
        _raise(dict(request.headers))
    await _settle(request, response)


mode.read = _planted_read  # type: ignore[assignment]
Ledger.receive = _planted_receive  # type: ignore[method-assign]
server.settle_headers = _planted_settle  # type: ignore[attr-defined]

if __name__ == "__main__":
    raise SystemExit(cli.main())
