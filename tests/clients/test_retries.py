"""OpenAI's SDKs send a create again when its answer was lost: for upstream that is a second job, here it is one."""

import asyncio
import functools

import pytest
from cutting import cutting
from running import PATIENCE_S
from sdk import connected
from stories import ask, numbers, types, until

from gateway.domain.facts import Created, Joined

MODES = {
    "foreground": {},
    "stream": {"stream": True},
    "background": {"background": True},
    "background_stream": {"background": True, "stream": True},
}
GIVES_UP_S = 1.0
LOSSES = {
    "timeout": "the client gives up while upstream works",
    "line": "the line breaks while upstream works",
    "headers": "the line breaks before the first byte of the answer",
    "body": "the line breaks within the answer",
}


async def by_python(kind, url, body, gives_up_s):
    """What the Python SDK makes of a create: the object, or the events to their end."""
    async with connected(kind, api_key="sk-test", base_url=url, max_retries=9, timeout=gives_up_s) as sdk:
        made = await sdk("responses.create", **body)
        return [event.to_dict() for event in await sdk.each(made)] if body.get("stream") else made.to_dict()


async def by_node(node, url, body, gives_up_s):
    """The same of the Node SDK."""
    program = await node("openai.mjs", "sent_again", url, body=body, timeout=int(gives_up_s * 1000))
    return (await program.says())["value"]


def cases():
    """What each SDK sends again: neither of them a stream that has begun, Node's nothing whose answer has begun."""
    for sdk in ("async", "blocking", "node"):
        for mode, said in MODES.items():
            for loss, words in LOSSES.items():
                if loss != "body" or (sdk != "node" and "stream" not in said):
                    yield pytest.param(sdk, mode, loss, id=f"{sdk}, {mode}: {words}")


@pytest.fixture
def lose(parts, node):
    """Have a client lose its first answer on a side, and send its create again; what it has in the end."""

    async def run(side, sdk, mode, loss):
        create = functools.partial(by_node, node) if sdk == "node" else functools.partial(by_python, sdk)
        body = {**ask("late" if loss in ("timeout", "line") else "normal"), **MODES[mode]}
        cuts = [loss] if loss in ("headers", "body") else []
        line = await cutting(parts, side.origin, *cuts)
        patience_s = GIVES_UP_S if loss == "timeout" else PATIENCE_S
        creating = asyncio.ensure_future(create(f"{line.url}/v1", body, patience_s))
        await until(lambda: posts(side))
        if loss == "line":
            line.cut()
        if cuts and mode == "foreground":
            side.later()  # so that there is an answer to lose
        await until(lambda: sent_again(side))
        while not creating.done():
            side.later()
            await asyncio.wait([creating], timeout=0.1)
        return await creating

    return run


def posts(side):
    """The creates that upstream was sent."""
    return side.upstream.simulator.asked("/responses", "POST")


def sent_again(side):
    """The create was sent again, and has arrived."""
    return side.gateway.facts.of(Joined) if side.gateway else posts(side)[1:]


@pytest.mark.parametrize(("sdk", "mode", "loss"), list(cases()))
async def test_a_create_whose_answer_was_lost_is_one_job_here_and_two_upstream(sides, lose, sdk, mode, loss):
    both = await sides()
    direct, through = await asyncio.gather(*[lose(side, sdk, mode, loss) for side in (both.direct, both.through)])

    assert len(posts(both.direct)) >= 2
    assert len(posts(both.through)) == 1
    facts = both.through.gateway.facts
    (job,) = {fact.response.response_id for fact in facts.of(Created)}
    if MODES[mode].get("stream"):
        assert through[0]["response"]["id"] == job
        assert types(through) == types(direct)
        assert numbers(through) == list(range(len(through)))
    else:
        assert through["id"] == job
        assert through["status"] == direct["status"]
    assert {fact.by for fact in facts.of(Joined)} == {"retry"}
