"""The facts once more, by the metric names of OpenTelemetry's GenAI conventions, for dashboards made for those.

Rule: names, labels and buckets are the convention's (https://github.com/open-telemetry/semantic-conventions-genai,
docs/gen-ai/gen-ai-metrics.md, gen-ai-token-metrics.md), of v1.41 or of its main branch; the gateway's own metrics say
the same and more. Usage is counted once per response, at its final status. Left out is the time per output chunk: it
is one observation per event, and nothing here is done per event. Called by `app`.
"""

from collections.abc import Callable
from typing import Any, Literal

from gateway.domain import facts
from gateway.domain.response import Ending, Response, Usage
from gateway.telemetry import names
from gateway.telemetry.catalogue import UNKNOWN, Metric
from gateway.telemetry.generation import went_wrong
from gateway.telemetry.readable import server
from gateway.telemetry.series import OTHER, Registry, Series

Version = Literal["v1.41", "main"]

_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_TOKENS = tuple(4.0**power for power in range(14))
_NO_ERROR = ""  # for Prometheus an empty label is none


def _label(attribute: str) -> str:
    return attribute.replace(".", "_")


_REQUEST_MODEL, _RESPONSE_MODEL = _label(names.GENAI_REQUEST_MODEL), _label(names.GENAI_RESPONSE_MODEL)
_COMMON = {
    _label(names.GENAI_OPERATION): (),
    _label(names.GENAI_PROVIDER): (),
    _REQUEST_MODEL: (),
    _RESPONSE_MODEL: (),
    _label(names.SERVER_ADDRESS): (),
    _label(names.SERVER_PORT): (),
}
_ENDED = {**_COMMON, _label(names.ERROR_TYPE): ()}
_OF_TYPE = {**_COMMON, _label(names.GENAI_TOKEN_TYPE): ()}
_OF_MODALITY = {**_COMMON, _label(names.GENAI_TOKEN_MODALITY): ()}

METRICS: dict[Version, tuple[Metric, ...]] = {
    "v1.41": (
        Metric(names.OPERATION_DURATION, "histogram", "GenAI operation duration.", _ENDED, _SECONDS),
        Metric(names.OPERATION_FIRST_CHUNK, "histogram", "Time to receive the first chunk.", _COMMON, _SECONDS),
        Metric(names.TOKEN_USAGE, "histogram", "Number of input and output tokens used.", _OF_TYPE, _TOKENS),
    ),
    "main": (
        Metric(names.INFERENCE_DURATION, "histogram", "Inference duration.", _ENDED, _SECONDS),
        Metric(names.INFERENCE_FIRST_CHUNK, "histogram", "Time to receive the first chunk.", _COMMON, _SECONDS),
        Metric(names.INFERENCE_INPUT, "histogram", "Input tokens of one inference.", _COMMON, _TOKENS),
        Metric(names.INFERENCE_OUTPUT, "histogram", "Output tokens of one inference.", _COMMON, _TOKENS),
        Metric(names.INFERENCE_INPUT_USED, "counter", "Input tokens used, cached ones included.", _OF_MODALITY),
        Metric(names.INFERENCE_OUTPUT_USED, "counter", "Output tokens used, reasoning included.", _OF_MODALITY),
        Metric(names.INFERENCE_CACHE_READ_USED, "counter", "Input tokens read from a cache.", _OF_MODALITY),
        Metric(names.INFERENCE_CACHE_WRITE_USED, "counter", "Input tokens written to a cache.", _OF_MODALITY),
        Metric(names.INFERENCE_REASONING_USED, "counter", "Output tokens of reasoning.", _OF_MODALITY),
    ),
}


class GenAiMetrics:
    """Counts into `registry` by the names of one version. `upstream`: base URL of the server that they are about."""

    def __init__(self, registry: Registry, version: Version, max_models: int, *, upstream: str) -> None:
        room = {_REQUEST_MODEL: max_models, _RESPONSE_MODEL: max_models}
        self._series = Series(registry, METRICS[version], room)
        self._inc, self._observe = self._series.inc, self._series.observe
        self._server = tuple(map(str, server(upstream)[1].values()))
        old = version == "v1.41"
        self._duration = names.OPERATION_DURATION if old else names.INFERENCE_DURATION
        self._first_chunk = names.OPERATION_FIRST_CHUNK if old else names.INFERENCE_FIRST_CHUNK
        self._used = self._used_1_41 if old else self._used_main
        self._project: dict[type[facts.Fact], Callable[[Any], None]] = {
            facts.FirstOutput: self._first_output,
            facts.Refused: self._refused,
            facts.Ended: self._ended,
        }

    def observe(self, fact: facts.Fact) -> None:
        """Count what happened: an observer for `Telemetry`."""
        project = self._project.get(type(fact))
        if project is not None:
            project(fact)

    def _first_output(self, fact: facts.FirstOutput) -> None:
        response = fact.response
        if response.mode.streamed and response.pumped:
            waited = fact.at - response.created_at
            self._observe(self._first_chunk, waited, *self._common(response), trace=response.trace)

    def _refused(self, fact: facts.Refused) -> None:
        took = fact.at - fact.response.created_at
        self._observe(self._duration, took, *self._common(fact.response), str(fact.status), trace=fact.response.trace)

    def _ended(self, fact: facts.Ended) -> None:
        response = fact.response
        if fact.again:
            return
        common = self._common(response)
        if not fact.late:
            took, error_type = fact.at - response.created_at, went_wrong(response) or _NO_ERROR
            self._observe(self._duration, took, *common, error_type, trace=response.trace)
        if response.ending is Ending.TERMINAL:
            self._used(response.usage, common)

    def _used_1_41(self, usage: Usage | None, common: tuple[str, ...]) -> None:
        if usage is not None:
            self._observe(names.TOKEN_USAGE, usage.input, *common, "input")
            self._observe(names.TOKEN_USAGE, usage.output, *common, "output")

    def _used_main(self, usage: Usage | None, common: tuple[str, ...]) -> None:
        """What came without usage counts as 0; of what kind tokens are, upstream does not say."""
        used = usage or Usage()
        self._inc(names.INFERENCE_INPUT_USED, *common, UNKNOWN, by=used.input)
        self._inc(names.INFERENCE_OUTPUT_USED, *common, UNKNOWN, by=used.output)
        if usage is None:
            return
        self._inc(names.INFERENCE_CACHE_READ_USED, *common, UNKNOWN, by=used.cached)
        self._inc(names.INFERENCE_CACHE_WRITE_USED, *common, UNKNOWN, by=used.cache_written)
        self._inc(names.INFERENCE_REASONING_USED, *common, UNKNOWN, by=used.reasoning)
        self._observe(names.INFERENCE_INPUT, used.input, *common)
        self._observe(names.INFERENCE_OUTPUT, used.output, *common)

    def _common(self, response: Response) -> tuple[str, ...]:
        """What is asked for is anybody's text until upstream has answered with a model."""
        asked = response.model_asked if response.model is not None else None
        models = asked or OTHER, response.model or OTHER
        return (names.OPERATION_CHAT, names.PROVIDER_OPENAI, *models, *self._server)
