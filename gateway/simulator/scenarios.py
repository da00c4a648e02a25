"""The scenarios: everything that a simulated response can do, one row each.

A scenario is a value. The rest of the simulator reads its fields and never asks for a scenario by name, so a new
kind of misbehaviour that combines existing ones is one more row here.

Times are simulated seconds: real ones divided by the simulator's speed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import inf
from typing import Any, Literal

Ask = Literal["create", "poll", "attach"]
Cut = Literal["reset", "half", "eof"]
Shape = Literal["openai", "detail", "html"]

MODEL_PREFIX = "simulated-"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Requests that get an error: of each counted series the first `first`; with `every=2` the 1st, 3rd, 5th.

    A create is counted with the creates of the same body by the same owner until one gets through, a poll or an attach
    with those of its response.
    """

    status: int
    code: str | None = None
    message: str = "The server had an error while processing your request. Sorry about that!"
    kind: str = "server_error"
    on: frozenset[Ask] = frozenset({"create"})
    first: float = 0
    every: int = 0
    retry_after_s: float | None = None
    shape: Shape = "openai"

    def hits(self, count: int) -> bool:
        """Whether the `count`-th request of a series (from 1) is refused."""
        return count <= self.first or (self.every > 0 and count % self.every != 0)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a response failed: `error` of the Response object, and the `error` event that comes before it.

    `event` is its form: nested under `error` as upstream sends it, flat as it is documented, or not at all.
    `headers` are the rate limits that a nested one may carry.
    """

    code: str
    message: str
    event: Literal["nested", "flat", "none"] = "nested"
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Scenario:
    """What one response does. The defaults are an ordinary response of some three seconds."""

    about: str

    queue_s: float = 0.5
    """How long it stays `queued`; a foreground one is silent so long after `response.in_progress`."""
    duration_s: float = 3.0
    """From the end of the queue to the terminal event, silence not counted."""
    delta_count: int = 60
    """Words in the answer: one text delta each."""
    output: tuple[str, ...] = ("reasoning", "message")
    bytes: int = 1_000_000
    """Size of the one big event, where there is one."""

    after: int = 12
    """The number of events after which the scenario's trouble begins: silence, cut, failure, restart of numbers."""
    silence_s: float = 0.0
    keepalive_s: float = 0.0
    """A `keepalive` event each so often in the silence; 0: none."""
    keepalive_repeats: bool = False
    """Keepalives carry the last number again, and do not use up one."""
    numbers: Literal["ascending", "none", "restarting"] = "ascending"

    status: Literal["completed", "failed", "incomplete"] = "completed"
    terminal: str | None = None
    """The type of the terminal event where it does not say the status that it embeds."""
    failure: Failure | None = None

    cut: Cut | None = None
    """How a stream is cut after `after` events: TCP reset, within an event, or a clean end of the body."""
    cuts: int = 1
    """How many connections of a response are cut; 0: each one."""
    resumable: bool = True
    streams_background: bool = True
    answers_as: Literal["asked", "json", "sse"] = "asked"
    create_status: int = 200
    answer_after_s: float = 0.0
    """The answer to the create is held back so long; what it created runs from the start."""
    vanishes: bool = False
    """The connection of the create is dropped without an answer; in the background, what it created runs."""
    foreign_framing: bool = False
    """Streams as other servers frame them: no `event:` lines, comments in between, `[DONE]` at the end."""
    cancel_sticks: bool = True
    """Else a cancelled response goes on and is `completed` in the end."""
    refusal: Refusal | None = None


_FAILURE = Failure(
    "server_error",
    "An error occurred while processing your request. You can retry your request, or contact us through our help "
    "center if the error persists. Please include the request ID wfr_0198c0de5eed in your message.",
)
_QUOTA = Failure(
    "insufficient_quota",
    "You exceeded your current quota, please check your plan and billing details.",
    event="none",
)
_RATE_IN_STREAM = Failure(
    "rate_limit_exceeded",
    "Rate limit reached for tokens per minute. Please try again in 2s.",
    headers=(("x-ratelimit-remaining-tokens", "0"), ("x-ratelimit-reset-tokens", "2s")),
)
_RATE = Refusal(
    429,
    "rate_limit_exceeded",
    "Rate limit reached for requests. Please try again in 1s.",
    "requests",
    first=2,
    retry_after_s=1,
)

SCENARIOS: Mapping[str, Scenario] = {
    "normal": Scenario("three seconds, some paragraphs"),
    "slow": Scenario("20 s queued, then a minute", queue_s=20, duration_s=60, delta_count=200),
    "long": Scenario("40 minutes, as deep research takes", queue_s=30, duration_s=2370, delta_count=1200),
    "stuck": Scenario("queued for ever", queue_s=inf),
    "stalls": Scenario("the stream falls silent in the middle, for ever", silence_s=inf),
    "silent": Scenario("six minutes of silence in the middle, then it goes on", silence_s=360),
    "keepalive": Scenario("a silence with keepalive events that use up numbers", silence_s=30, keepalive_s=5),
    "keepalive_repeated": Scenario(
        "a silence with keepalive events that carry the last number again",
        silence_s=30,
        keepalive_s=5,
        keepalive_repeats=True,
    ),
    "fails": Scenario("an error event, then response.failed", status="failed", failure=_FAILURE),
    "fails_flat": Scenario(
        "the same with the error event in the documented, flat form",
        status="failed",
        failure=replace(_FAILURE, event="flat"),
    ),
    "rate_limited_midstream": Scenario(
        "an error event with rate limits in it, then response.failed", status="failed", failure=_RATE_IN_STREAM
    ),
    "quota": Scenario(
        "accepted, then failed for lack of quota: how background work tells what is otherwise a 429",
        duration_s=0.1,
        after=0,
        status="failed",
        failure=_QUOTA,
    ),
    "incomplete": Scenario("ends at max_output_tokens", status="incomplete"),
    "completed_incomplete": Scenario(
        "the event response.completed, and in it the status incomplete",
        status="incomplete",
        terminal="response.completed",
    ),
    "tool": Scenario("calls the first function among the request's tools", output=("reasoning", "function_call")),
    "big": Scenario("one event of many bytes", output=("image", "message")),
    "drops": Scenario("the first connection is reset after some events", cut="reset"),
    "drops_every": Scenario("each connection is reset after some events", cut="reset", cuts=0),
    "drops_within": Scenario("the first connection ends in the middle of an event", cut="half"),
    "closes": Scenario("the first stream ends cleanly, without a terminal event", cut="eof"),
    "refuses_resume": Scenario("is reset and cannot be streamed again", cut="reset", resumable=False),
    "no_numbers": Scenario("events without sequence_number", numbers="none"),
    "restarts": Scenario("sequence numbers begin again in the middle", numbers="restarting"),
    "foreign": Scenario("framed as other servers do it", foreign_framing=True),
    "json_for_stream": Scenario("answers JSON where a stream was asked for", answers_as="json"),
    "sse_for_json": Scenario("answers a stream where none was asked for", answers_as="sse"),
    "refuses_stream": Scenario("400 to background and stream together", streams_background=False),
    "created_202": Scenario("answers 202 to a create", create_status=202),
    "late": Scenario("the answer to the create takes five seconds", answer_after_s=5),
    "vanishes": Scenario("is created, but the connection is reset without an answer", vanishes=True),
    "cancelled_completes": Scenario("runs on after a cancel and completes", cancel_sticks=False),
    "rate_limited": Scenario("429 to the first two creates", refusal=_RATE),
    "rate_limited_polls": Scenario(
        "429 to every second poll", refusal=replace(_RATE, on=frozenset({"poll"}), first=0, every=2)
    ),
    "flaky": Scenario(
        "500 to every second request", refusal=Refusal(500, on=frozenset({"create", "poll", "attach"}), every=2)
    ),
    "rejected": Scenario(
        "400 to every create",
        refusal=Refusal(400, "invalid_prompt", "Invalid prompt.", "invalid_request_error", first=inf),
    ),
    "bad_gateway": Scenario(
        "502 with HTML to the first create", refusal=Refusal(502, "", "Bad gateway", first=1, shape="html")
    ),
    "detail_error": Scenario(
        "422 with a body that is not in OpenAI's shape",
        refusal=Refusal(422, "", "The request is not valid.", first=inf, shape="detail"),
    ),
}

# What metadata may set besides the scenario's name: the field and how its text is read.
SETTINGS: Mapping[str, Callable[[str], float]] = {
    "after": int,
    "bytes": int,
    "delta_count": int,
    "duration_s": float,
    "queue_s": float,
    "silence_s": float,
    "keepalive_s": float,
    "answer_after_s": float,
    "cuts": int,
}
REFUSAL_SETTINGS: Mapping[str, Callable[[str], float]] = {
    "first": float,
    "every": int,
    "status": int,
    "retry_after_s": float,
}


def choose(request: Mapping[str, Any], default: str = "normal") -> Scenario:
    """The scenario that a create body asks for: `metadata.scenario`, else a model `simulated-<scenario>`.

    Other metadata named in SETTINGS and REFUSAL_SETTINGS override the row's fields. Raises ValueError with a message
    for the client if the name is unknown or a value cannot be read or is negative.
    """
    metadata = request.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    model = str(request.get("model") or "")
    name = metadata.get("scenario") or (model.removeprefix(MODEL_PREFIX) if model.startswith(MODEL_PREFIX) else default)
    if name not in SCENARIOS:
        raise ValueError(f"There is no scenario {name!r}. There are: {', '.join(SCENARIOS)}.")
    scenario = replace(SCENARIOS[name], **_overrides(metadata, SETTINGS))
    if scenario.refusal is None:
        return scenario
    return replace(scenario, refusal=replace(scenario.refusal, **_overrides(metadata, REFUSAL_SETTINGS)))


def _overrides(metadata: Mapping[str, Any], settings: Mapping[str, Callable[[str], float]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, read in settings.items():
        if key in metadata:
            try:
                values[key] = read(str(metadata[key]))
            except ValueError:
                raise ValueError(f"metadata.{key} is not a number: {metadata[key]!r}.") from None
            if not values[key] >= 0:
                raise ValueError(f"metadata.{key} is negative: {metadata[key]!r}.")
    return values
