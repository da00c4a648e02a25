"""Facts in, spans out: tracing as tests hold it, with an exporter that keeps what it gets."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from gateway.domain import facts
from gateway.telemetry.generation import End
from gateway.telemetry.tracing import Tracing

GRACE_S = 60.0


async def tell(tracing: Tracing, told: Iterable[facts.Fact]) -> None:
    """What the gateway does with facts: tracing observes them, and gets the ends that are due from the outbox."""
    for fact in told:
        tracing.observe(fact)
        if isinstance(fact, facts.Ended) and tracing.due(fact.response, fact.late):
            await tracing.send([End(fact.response, fact.late)])


async def spans_after(told: Sequence[facts.Fact], environ: Mapping[str, str] | None = None, **options: Any) -> Any:
    """Every span that some facts make, in order of their end."""
    memory = InMemorySpanExporter()
    tracing = Tracing(environ or {}, exporter=lambda: memory, **options)
    await tell(tracing, told)
    await tracing.close(GRACE_S)
    return memory.get_finished_spans()


async def exported(
    told: Sequence[facts.Fact], environ: Mapping[str, str] | None = None, **options: Any
) -> dict[str, ReadableSpan]:
    """The spans that some facts make, by name, where each name is there once."""
    spans = await spans_after(told, environ, **options)
    assert len({span.name for span in spans}) == len(spans)
    return {span.name: span for span in spans}


def attributes(span: ReadableSpan) -> Mapping[str, Any]:
    return dict(span.attributes or {})
