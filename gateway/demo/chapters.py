"""The chapters of the demo: each does one part of the gateway's job with the OpenAI SDK, and checks what it shows.

What a client got through the gateway is compared with what upstream itself gives, event by event. Called by the demo.
"""

import asyncio
import re
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from openai import APIConnectionError, APIError, AsyncOpenAI, AsyncStream
from openai.types.responses import ResponseStreamEvent

from gateway.commands.terminal import table
from gateway.demo.stage import KEY, Stage
from gateway.demo.telling import Teller
from gateway.telemetry.receiver import tree

Chapter = Callable[[Stage, Teller], Awaitable[None]]
Event = dict[str, Any]
Stream = AsyncStream[ResponseStreamEvent]

MODEL = "gpt-5"

_TERMINAL = {"completed", "failed", "incomplete", "cancelled"}


def difference(got: Sequence[Event], expected: Sequence[Event]) -> str:
    """What is different about two runs of events; empty if they are the same, in order, none twice, none missing."""
    numbers = [event["sequence_number"] for event in got]
    wanted = [event["sequence_number"] for event in expected]
    twice = sorted({number for number in numbers if numbers.count(number) > 1})
    missing = sorted(set(wanted) - set(numbers))
    if twice or missing:
        return f"twice: {twice or 'none'}, missing: {missing or 'none'}"
    changed = [number for number, one, other in zip(numbers, got, expected, strict=False) if one != other]
    if changed:
        return f"different: {changed}"
    return f"{len(got)} events, expected {len(expected)}" if len(got) != len(expected) else ""


async def polling(stage: Stage, tell: Teller) -> None:
    """Many polls of clients, few of upstream."""
    tell.chapter("A background response is polled")
    tell.say("Four clients ask for it five times a second, until it has ended.")
    began = time.monotonic()
    created = await stage.client.responses.create(
        model=MODEL, input="Write a haiku.", background=True, metadata={"duration_s": "2.5"}
    )
    stage.remembered["polled"] = created.id
    seen = await asyncio.gather(*(_poll_to_the_end(stage, created.id) for _ in range(4)))
    took_s = time.monotonic() - began
    upstream = await stage.asked("GET", created.id)
    clients = sum(len(statuses) for statuses in seen)
    tell.show("statuses", " -> ".join(dict.fromkeys(seen[0])))
    tell.show("the clients asked", f"{clients} times")
    tell.show("upstream was asked", f"{upstream} times in {took_s:.1f} s")
    tell.claim("every client saw the end", all(statuses[-1] == "completed" for statuses in seen), seen)
    tell.claim("upstream is asked about once a second, however many ask", upstream <= took_s + 1, upstream)
    for _ in range(20):
        await stage.client.responses.retrieve(created.id)
    upstream = await stage.asked("GET", created.id) - upstream
    tell.claim("20 more polls of the finished response cost upstream none", upstream == 0, upstream)


async def hanging_up(stage: Stage, tell: Teller) -> None:
    """A client that loses its line misses nothing."""
    tell.chapter("A client loses its line and comes back")
    tell.say("A background response is streamed. After 20 events the client hangs up.")
    stream, first = await _begin(stage, "hung up", 20, duration_s=2)
    await stream.close()
    response_id, cursor = stage.remembered["hung up"], first[-1]["sequence_number"]
    tell.say(f"A moment later it asks for the rest, with starting_after={cursor}.")
    await asyncio.sleep(0.5)
    rest = await _read(await stage.client.responses.retrieve(response_id, stream=True, starting_after=cursor))
    truth = await _all(stage.upstream, response_id)
    tell.show("the client got", f"{_span(first)}, then {_span(rest)}")
    _claim_exact(tell, [*first, *rest], truth)
    await stage.forget(response_id)
    tell.say("Upstream is made to forget the response. Another client reads all of it.")
    _claim_exact(tell, await _all(stage.client, response_id), truth)


async def killing(stage: Stage, tell: Teller) -> None:
    """A gateway that is killed and started again loses nothing."""
    tell.chapter("The gateway is killed in the middle of a stream (kill -9)")
    stream, first = await _begin(stage, "killed", 30, duration_s=20, delta_count=400)
    response_id = stage.remembered["killed"]
    began = time.monotonic()
    await stage.gateway.kill()
    error = "a clean end"
    try:
        async for event in stream:
            first.append(event.to_dict(mode="json"))
    except (APIConnectionError, OSError) as broken:
        error = type(broken).__name__
    tell.show("the client got", f"{_span(first)}, then {error}")
    tell.claim("a cut is never taken for an end", error != "a clean end", error)
    await stage.restart()
    tell.show("gateway back after", f"{time.monotonic() - began:.1f} s, on the same file")
    story = await stage.operators(f"/responses/{response_id}")
    tell.claim(
        "it waits for its owner, whose key is nowhere on disk", story["waits_for_owner"] and not stage.on_disk(KEY)
    )
    cursor = first[-1]["sequence_number"]
    tell.say(f"The client asks for the rest, with starting_after={cursor}.")
    stream = await stage.client.responses.retrieve(response_id, stream=True, starting_after=cursor)
    rest = await _read(stream, 20)
    tell.say("It goes on live. (Upstream's clock is moved ahead, to save you the wait.)")
    await stage.skip(60)
    rest += await _read(stream)
    tell.show("the client got", _span(rest))
    _claim_exact(tell, [*first, *rest], await _all(stage.upstream, response_id))


async def refusing(stage: Stage, tell: Teller) -> None:
    """Upstream's stream breaks and cannot be taken up again: the client's ends rightly all the same."""
    tell.chapter("Upstream's stream breaks, and upstream refuses to go on with it")
    _, events = await _begin(stage, "refused", None, scenario="refuses_resume", duration_s=2, after=25)
    story = await stage.operators(f"/responses/{stage.remembered['refused']}")
    final = await stage.upstream.responses.retrieve(stage.remembered["refused"])
    numbers, last = [event["sequence_number"] for event in events], events[-1]
    tell.show("the client got", f"{_span(events)}, the last one {last['type']}")
    tell.claim("no error, and no gap in the numbers", numbers == list(range(len(events))), numbers)
    tell.claim("the end was made from the polled object", story["synthesised"] and story["upstream_polls"] > 0, story)
    output = final.to_dict(mode="json")["output"]
    tell.claim("the final answer in it is upstream's", last["response"]["output"] == output, last)


async def cancelling(stage: Stage, tell: Teller) -> None:
    """A cancel reaches upstream, and everybody who reads."""
    tell.chapter("A response is cancelled")
    tell.say("One client reads its stream, another one cancels it.")
    stream, _ = await _begin(stage, "cancelled", 5, duration_s=60, delta_count=600)
    response_id = stage.remembered["cancelled"]
    answer = await stage.client.responses.cancel(response_id)
    code = None
    try:
        await _read(stream)
    except APIError as error:
        code = error.code
    upstream = await stage.upstream.responses.retrieve(response_id)
    tell.show("the cancel says", answer.status)
    tell.show("upstream says", upstream.status)
    tell.show("the reader gets", f"the error {code}")
    tell.claim("it is cancelled upstream", upstream.status == answer.status == "cancelled", upstream.status)
    tell.claim("its reader is told, not left waiting", code == "response_cancelled", code)


async def operating(stage: Stage, tell: Teller) -> None:
    """What an operator sees of all this."""
    tell.chapter("What an operator sees")
    tell.say(f"GET {stage.ops_url}/responses (or: responses-gateway responses list)")
    stories = {story["response_id"]: story for story in (await stage.operators("/responses"))["data"]}
    rows = [(name, stories[response_id]) for name, response_id in stage.remembered.items()]
    head = ("", "mode", "status", "ended after", "polls", "upstream", "resumes", "tokens")
    tell.quote(table(head, [(name, *_row(story)) for name, story in rows]))
    statuses = {name: story["status"] for name, story in rows}
    expected = {name: "cancelled" if name == "cancelled" else "completed" for name in stage.remembered}
    tell.claim("every response of this demo, with its own end", statuses == expected, statuses)
    own = (await stage.upstream.responses.retrieve(stage.remembered["killed"])).usage
    counted = dict(rows)["killed"]["tokens"]
    tell.claim("tokens as upstream says", own is not None and counted["output"] == own.output_tokens, counted)
    tell.say(f"GET {stage.ops_url}/metrics (from the restart on)")
    lines = (await stage.metrics()).splitlines()
    ended = _sums(lines, "responses_gateway_responses_terminal_total", "status")
    tell.show("responses ended", _counts(ended))
    tell.show("readers attached", _counts(_sums(lines, "responses_gateway_stream_attaches_total", "kind")))
    tell.show("tokens", _counts(_sums(lines, "responses_gateway_tokens_total", "kind")))
    tell.claim("each end is counted once", ended == {"completed": 2, "cancelled": 1}, ended)


async def tracing(stage: Stage, tell: Teller) -> None:
    """One response is one trace, whatever happened to it."""
    tell.chapter("The trace of the response that outlived the kill")
    story = await stage.operators(f"/responses/{stage.remembered['killed']}")
    spans = await stage.trace(story["trace_id"], ("POST /v1/responses", "chat gpt-5", "stream"))
    shown = ("gen_ai.usage.output_tokens", "gateway.outcome", "gateway.events.delivered")
    tell.quote(tree(spans, shown))
    roots = [span.name for span in spans if not span.parent_id]
    tell.claim("one tree: the create, sent before the kill, is its root", roots == ["POST /v1/responses"], roots)
    counted = [span.name for span in spans if "gen_ai.usage.output_tokens" in span.attributes]
    tell.claim("tokens are on one span alone", counted == ["chat gpt-5"], counted)


CHAPTERS: Sequence[Chapter] = (polling, hanging_up, killing, refusing, cancelling, operating, tracing)


def _row(story: Mapping[str, Any]) -> Sequence[str]:
    tokens = story["tokens"]
    return (
        story["mode"],
        story["status"],
        f"{story['duration_s']:.1f} s",
        str(story["client_polls"]),
        str(story["upstream_polls"]),
        str(story["resumes"]),
        str(tokens["output"]) if tokens else "-",
    )


def _sums(lines: Sequence[str], metric: str, label: str) -> dict[str, float]:
    """A metric's sum for each value of one label, as far as it is not 0."""
    sums: defaultdict[str, float] = defaultdict(float)
    for line in lines:
        if line.startswith(f"{metric}{{") and (found := re.search(rf'\b{label}="([^"]*)".*\}} (\S+)', line)):
            sums[found[1]] += float(found[2])
    return {value: count for value, count in sums.items() if count}


def _counts(sums: Mapping[str, float]) -> str:
    return ", ".join(f"{count:g} {value}" for value, count in sums.items()) or "none"


async def _poll_to_the_end(stage: Stage, response_id: str) -> list[str]:
    statuses: list[str] = []
    while not statuses or statuses[-1] not in _TERMINAL:
        response = await stage.client.responses.retrieve(response_id)
        statuses.append(response.status or "none")
        await asyncio.sleep(0.2)
    return statuses


async def _begin(stage: Stage, name: str, count: int | None, **metadata: object) -> tuple[Stream, list[Event]]:
    """Create a background stream and read `count` events of it; its id is remembered by a name.

    `metadata` tells the simulated upstream what to play.
    """
    stream = await stage.client.responses.create(
        model=MODEL,
        input="Tell me a story.",
        background=True,
        stream=True,
        metadata={field: str(value) for field, value in metadata.items()},
    )
    events = await _read(stream, count)
    stage.remembered[name] = events[0]["response"]["id"]
    return stream, events


async def _read(stream: Stream, count: int | None = None) -> list[Event]:
    """The next `count` events, or all up to the end."""
    events: list[Event] = []
    async for event in stream:
        events.append(event.to_dict(mode="json"))
        if len(events) == count:
            break
    return events


async def _all(client: AsyncOpenAI, response_id: str) -> list[Event]:
    return await _read(await client.responses.retrieve(response_id, stream=True))


def _span(events: Sequence[Event]) -> str:
    first, last = events[0]["sequence_number"], events[-1]["sequence_number"]
    return f"events {first} to {last}"


def _claim_exact(tell: Teller, got: Sequence[Event], truth: Sequence[Event]) -> None:
    different = difference(got, truth)
    tell.claim(
        f"exactly upstream's {len(truth)} events: none twice, none missing, none changed", not different, different
    )
