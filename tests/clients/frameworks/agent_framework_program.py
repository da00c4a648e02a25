"""Microsoft Agent Framework for Python, in the ways that its documentation and its users do it."""

import asyncio
import json
from pathlib import Path
from typing import Any

from agent_framework import Agent, AgentSession
from agent_framework.openai import OpenAIChatClient
from program import outcome, play, say, told
from pydantic import BaseModel

BACKGROUND = {"background": True}
CALLS: list[str] = []


class Tide(BaseModel):
    """A structured answer."""

    brought: str
    boats: int


def weather(city: str) -> str:
    """The weather in a city."""
    CALLS.append(city)
    return f"Rain in {city}."


def agent_of(base_url: str, scenario: dict[str, Any], *, tools: Any = None, azure: bool = False) -> Agent:
    """An agent; `scenario` is what the simulator is to do. For Azure the base URL is the endpoint."""
    where = {"azure_endpoint": base_url} if azure else {"base_url": base_url}
    client = OpenAIChatClient(model="gpt-5.2", api_key="sk-test", **where)
    return Agent(client=client, name="harbour", tools=tools, default_options={"metadata": scenario})


def shown(update: Any) -> dict[str, Any]:
    """An update, with the SDK's event that it was made of; the results of tools have none."""
    event = update.raw_representation and update.raw_representation.raw_representation
    of_the_event = {"type": event.type, "number": event.sequence_number} if event else {"type": "tool", "number": None}
    return {**of_the_event, "text": update.text, "token": update.continuation_token}


async def finished(agent: Agent, response: Any, session: AgentSession, pauses: list[float], **options: Any) -> Any:
    """Poll until there is no token any more, pausing as given; the last pause repeats."""
    polls = 0
    while response.continuation_token is not None:
        await asyncio.sleep(pauses[min(polls, len(pauses) - 1)])
        polls += 1
        token = {**BACKGROUND, **options, "continuation_token": response.continuation_token}
        response = await agent.run(session=session, options=token)
    return response, polls


async def poll(base_url: str, scenario: dict[str, Any], pauses: list[float], azure: bool = False) -> None:
    agent = agent_of(base_url, scenario, azure=azure)
    session = agent.create_session()
    response = await agent.run("What did the tide bring?", session=session, options=BACKGROUND)
    say(response.continuation_token)
    await told()
    response, polls = await finished(agent, response, session, pauses)
    usage = response.usage_details and dict(response.usage_details)
    say({"text": response.text, "polls": polls, "usage": usage, "model": response.raw_representation.model})


async def stream(base_url: str, scenario: dict[str, Any], keepalives: int = 0) -> None:
    """Says the first update, and that it has seen so many keepalive events; then how it ended."""
    agent = agent_of(base_url, scenario)
    run = agent.run("What did the tide bring?", stream=True, options=BACKGROUND)
    updates: list[dict[str, Any]] = []

    async def read() -> int:
        async for update in run:
            updates.append(shown(update))
            if len(updates) == 1:
                say(updates[0])
                await told()
            if keepalives and [one["type"] for one in updates].count("keepalive") == keepalives:
                say("silence")
        return len(updates)

    ended = await outcome(read())
    final = await run.get_final_response() if "value" in ended else None
    say({**ended, "seen": updates, "text": final.text if final else None, "token": final and final.continuation_token})


async def resume_as_the_sample_does(base_url: str, scenario: dict[str, Any]) -> None:
    """Keeps the token of the last update, breaks after three, resumes."""
    agent = agent_of(base_url, scenario)
    session = agent.create_session()
    last_token, seen = None, []
    async for update in agent.run("What did the tide bring?", stream=True, session=session, options=BACKGROUND):
        seen.append(shown(update))
        last_token = update.continuation_token
        if len(seen) == 3:
            break
    say({"seen": seen, "token": last_token})
    await told()
    if last_token is None:
        say(None)
        return
    token = {**BACKGROUND, "continuation_token": last_token}
    run = agent.run(stream=True, session=session, options=token)
    after = [shown(update) async for update in run]
    final = await run.get_final_response()
    say({"seen": after, "text": final.text})


async def resume(
    base_url: str,
    scenario: dict[str, Any],
    leave_at: str,
    cursor: str,
    count: int = 1,
    structured: bool = False,
    tool: bool = False,
) -> None:
    """Leaves at an event of a type and comes back: with the token alone, or with a cursor in one of its forms."""
    agent = agent_of(base_url, scenario, tools=[weather] if tool else None)
    session = agent.create_session()
    options: dict[str, Any] = {**BACKGROUND, **({"response_format": Tide} if structured else {})}
    run = agent.run("What did the tide bring?", stream=True, session=session, options=options)
    say("begun")
    token, seen = None, []
    async for update in run:
        seen.append(shown(update))
        token = update.continuation_token or token
        count -= seen[-1]["type"] == leave_at
        if not count:
            break
    say("left")
    await told()
    last = seen[-1]["number"]
    headers: dict[str, Any] = {}
    if cursor == "suffix":
        token = {"response_id": f"{token['response_id']}~{last}"}
    elif cursor == "header":
        headers = {"client_kwargs": {"extra_headers": {"Last-Event-ID": str(last)}}}
    options = {**options, "continuation_token": token}
    run = agent.run(stream=True, session=session, options=options, **headers)
    after = [shown(update) async for update in run]
    final = await run.get_final_response()
    value = final.value.model_dump() if structured and final.value else None
    ended = {"text": final.text, "value": value, "calls": CALLS, "token": final.continuation_token}
    say({"before": seen, "after": after, **ended})


async def tools(base_url: str, scenario: dict[str, Any], streamed: bool) -> None:
    agent = agent_of(base_url, scenario, tools=[weather])
    session = agent.create_session()
    if streamed:
        run = agent.run("How is the weather?", stream=True, session=session, options=BACKGROUND)
        async for _ in run:
            pass
        response = await run.get_final_response()
    else:
        response = await agent.run("How is the weather?", session=session, options=BACKGROUND)
        response, _ = await finished(agent, response, session, [0.05])
    say({"text": response.text, "calls": CALLS})


async def structured(base_url: str, scenario: dict[str, Any], streamed: bool) -> None:
    agent = agent_of(base_url, scenario)
    session = agent.create_session()
    options: dict[str, Any] = {**BACKGROUND, "response_format": Tide}
    if streamed:
        run = agent.run("What did the tide bring?", stream=True, session=session, options=options)
        async for _ in run:
            pass
        response = await run.get_final_response()
    else:
        response = await agent.run("What did the tide bring?", session=session, options=options)
        response, _ = await finished(agent, response, session, [0.05], response_format=Tide)
    say(response.value.model_dump())


async def begin_and_save(base_url: str, scenario: dict[str, Any], file: str, streamed: bool, count: int = 3) -> None:
    """Begins, writes token and session to a file, and is no more."""
    agent = agent_of(base_url, scenario)
    session = agent.create_session()
    token, numbers = None, []
    if streamed:
        async for update in agent.run("What did the tide bring?", stream=True, session=session, options=BACKGROUND):
            token = update.continuation_token or token
            numbers.append(shown(update)["number"])
            if len(numbers) == count:
                break
    else:
        response = await agent.run("What did the tide bring?", session=session, options=BACKGROUND)
        token = response.continuation_token
    saved = {"token": token, "session": session.to_dict(), "numbers": numbers}
    await asyncio.to_thread(Path(file).write_text, json.dumps(saved), encoding="utf-8")


async def load_and_finish(
    base_url: str, scenario: dict[str, Any], file: str, streamed: bool, position: bool = False
) -> None:
    """Another process goes on: from the start, or from the position of the last event that the first one had."""
    saved = json.loads(await asyncio.to_thread(Path(file).read_text, encoding="utf-8"))
    if position:
        saved["token"]["response_id"] += f"~{saved['numbers'][-1]}"
    agent = agent_of(base_url, scenario)
    session = AgentSession.from_dict(saved["session"])
    options = {**BACKGROUND, "continuation_token": saved["token"]}
    if streamed:
        run = agent.run(stream=True, session=session, options=options)
        numbers = [shown(update)["number"] async for update in run]
        response = await run.get_final_response()
    else:
        numbers = []
        response = await agent.run(session=session, options=options)
        response, _ = await finished(agent, response, session, [0.05])
    say({"text": response.text, "before": saved["numbers"], "after": numbers})


async def turns(base_url: str, scenario: dict[str, Any]) -> None:
    """Two turns of a session; the second is begun when the first is over."""
    agent = agent_of(base_url, scenario)
    session = agent.create_session()
    texts = []
    for question in ("What did the tide bring?", "And yesterday?"):
        response = await agent.run(question, session=session, options=BACKGROUND)
        response, _ = await finished(agent, response, session, [0.05])
        texts.append(response.text)
    say({"texts": texts, "session": session.to_dict()["service_session_id"]})


async def turn_after_resume(base_url: str, scenario: dict[str, Any]) -> None:
    """Leaves the first turn of a session, resumes it by id and position, and has a second turn."""
    agent = agent_of(base_url, scenario)
    session = agent.create_session()
    token, last = None, None
    async for update in agent.run("What did the tide bring?", stream=True, session=session, options=BACKGROUND):
        token, last = update.continuation_token or token, shown(update)["number"]
        if last == 20:
            break
    options = {**BACKGROUND, "continuation_token": {"response_id": f"{token['response_id']}~{last}"}}
    async for _ in agent.run(stream=True, session=session, options=options):
        pass
    run = agent.run("And yesterday?", stream=True, session=session, options=BACKGROUND)
    async for _ in run:
        pass
    say({"first": token["response_id"], "text": (await run.get_final_response()).text})


async def stream_what_was_polled(base_url: str, scenario: dict[str, Any]) -> None:
    """Begins without a stream, and asks for one later."""
    agent = agent_of(base_url, scenario)
    response = await agent.run("What did the tide bring?", options=BACKGROUND)

    async def read(run: Any) -> list[int]:
        return [shown(update)["number"] async for update in run]

    say(
        await outcome(
            read(agent.run(stream=True, options={**BACKGROUND, "continuation_token": response.continuation_token}))
        )
    )


async def resume_foreground(base_url: str, scenario: dict[str, Any]) -> None:
    """The framework hands out tokens for streams in the foreground too; this one is used, with the id alone."""
    agent = agent_of(base_url, scenario)
    token, before = None, []
    async for update in agent.run("What did the tide bring?", stream=True):
        before.append(shown(update)["number"])
        token = update.continuation_token or token
        if len(before) == 20:
            break

    async def read() -> list[int]:
        run = agent.run(stream=True, options={"continuation_token": token})
        return [shown(update)["number"] async for update in run]

    say(await outcome(read()))


async def leave_open(base_url: str, scenario: dict[str, Any]) -> None:
    """Breaks out of a stream and keeps it: its connection stays open, and nobody reads."""
    agent = agent_of(base_url, scenario)
    run = agent.run("What did the tide bring?", stream=True, options=BACKGROUND)
    async for update in run:
        if update.continuation_token is not None:
            say(update.continuation_token)
            break
    await told()
    say("still here")


play(
    {
        scene.__name__: scene
        for scene in (
            poll,
            stream,
            resume_as_the_sample_does,
            resume,
            tools,
            structured,
            begin_and_save,
            load_and_finish,
            turns,
            turn_after_resume,
            stream_what_was_polled,
            resume_foreground,
            leave_open,
        )
    }
)
