"""OpenAI Agents SDK. It has no background mode of its own: extra arguments ask for it, and nothing polls."""

from typing import Any

from agents import Agent, ModelSettings, OpenAIResponsesModel, Runner, function_tool, set_tracing_disabled
from openai import AsyncOpenAI
from program import outcome, play, say, told

CALLS: list[str] = []
set_tracing_disabled(True)  # its traces go to a fixed address elsewhere


@function_tool
def weather(city: str) -> str:
    """The weather in a city."""
    CALLS.append(city)
    return f"Rain in {city}."


def agent_of(base_url: str, scenario: dict[str, Any], headers: dict[str, str], *, tool: bool = False) -> Agent:
    client = AsyncOpenAI(base_url=base_url, api_key="sk-test", max_retries=0)
    settings = ModelSettings(extra_args={"background": True}, extra_headers=headers, metadata=scenario)
    model = OpenAIResponsesModel("gpt-5.2", openai_client=client)
    return Agent(name="harbour", model=model, model_settings=settings, tools=[weather] if tool else [])


async def run(base_url: str, scenario: dict[str, Any], tries: list[dict[str, str]], tool: bool = False) -> None:
    """One run with each of these sets of headers."""
    for headers in tries:
        result = await Runner.run(agent_of(base_url, scenario, headers, tool=tool), "What did the tide bring?")
        say({"text": result.final_output, "calls": CALLS})


async def stream(base_url: str, scenario: dict[str, Any]) -> None:
    """Says that it has begun; then how the run ended."""
    result = Runner.run_streamed(agent_of(base_url, scenario, {}), "What did the tide bring?")

    async def read() -> str:
        async for event in result.stream_events():
            if event.type == "raw_response_event" and event.data.type == "response.created":
                say("begun")
                await told()
        return str(result.final_output)

    say(await outcome(read()))


async def abandon(base_url: str, scenario: dict[str, Any]) -> None:
    """Cancels a run in its beginning."""
    result = Runner.run_streamed(agent_of(base_url, scenario, {}), "What did the tide bring?")
    async for event in result.stream_events():
        if event.type == "raw_response_event":
            result.cancel()
    say("cancelled")


play({scene.__name__: scene for scene in (run, stream, abandon)})
