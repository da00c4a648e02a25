"""LangChain's OpenAI model. It knows nothing of background mode: model arguments ask for it, and nothing polls."""

import asyncio
from typing import Any

from langchain_openai import ChatOpenAI
from program import outcome, play, say, told

QUESTION = "What did the tide bring?"


def model_of(
    base_url: str, scenario: dict[str, Any], headers: dict[str, str] | None = None, **options: Any
) -> ChatOpenAI:
    return ChatOpenAI(
        model="gpt-5.2",
        base_url=base_url,
        api_key="sk-test",
        use_responses_api=True,
        max_retries=0,
        model_kwargs={"background": True},
        extra_body={"metadata": scenario},
        default_headers=headers,
        **options,
    )


async def invoke(base_url: str, scenario: dict[str, Any], tries: list[dict[str, str]]) -> None:
    """With each of these sets of headers: blocking, and async."""
    for headers in tries:
        model = model_of(base_url, scenario, headers)
        answers = [await asyncio.to_thread(model.invoke, QUESTION), await model.ainvoke(QUESTION)]
        assert answers[0].response_metadata["status"] == answers[1].response_metadata["status"]
        say({"text": all(answer.text for answer in answers) and answers[0].text})


async def stream(base_url: str, scenario: dict[str, Any], chunk_timeout_s: float | None = 120) -> None:
    """Says that it has begun; then all its text, or how it ended."""
    model = model_of(base_url, scenario, stream_chunk_timeout=chunk_timeout_s)
    pieces: list[str] = []
    statuses: list[str] = []

    async def read() -> str:
        async for chunk in model.astream(QUESTION):
            if not statuses and not pieces:
                say("begun")
                await told()
            pieces.append(chunk.text)
            statuses.append(chunk.response_metadata.get("status"))
        return "".join(pieces)

    say({**await outcome(read()), "text": "".join(pieces), "status": statuses[-1] if statuses else None})


async def turns(base_url: str, scenario: dict[str, Any], headers: dict[str, str]) -> None:
    """A conversation whose turns name the response before."""
    model = model_of(base_url, scenario, headers, use_previous_response_id=True)
    first = await model.ainvoke(QUESTION)
    second = await model.ainvoke([("user", QUESTION), first, ("user", "And yesterday?")])
    say([first.response_metadata["id"], second.text])


play({scene.__name__: scene for scene in (invoke, stream, turns)})
