"""Spans on the wire: the message is the one that the vendor's own encoder makes of them."""

from typing import Any

import pytest
from lives import a_life
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.exporter.otlp.proto.common import trace_encoder
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState
from spanning import spans_after

from gateway.telemetry.environment import otlp_exporter
from gateway.telemetry.otlp import encode_spans

HERE = SpanContext(2**128 - 1, 2**64 - 1, False, TraceFlags(1))
ELSEWHERE = SpanContext(1, 2, True, TraceFlags(3), TraceState([("vendor", "a"), ("other", "b")]))


def a_span(**fields: Any) -> ReadableSpan:
    usual = {"context": HERE, "resource": Resource({"service.name": "gateway"}), "start_time": 1, "end_time": 2**63}
    return ReadableSpan("span", **{**usual, "instrumentation_scope": InstrumentationScope("scope", "1"), **fields})


def dropping(attributes: BoundedAttributes) -> BoundedAttributes:
    attributes.dropped = 300
    return attributes


async def test_the_spans_of_a_life_are_encoded_as_the_vendor_does() -> None:
    spans = await spans_after(a_life(), upstream="http://upstream/v1")
    assert len(spans) > 5
    assert encode_spans(spans) == trace_encoder.encode_spans(spans)


@pytest.mark.parametrize(
    "fields",
    [
        *(
            {"attributes": {"name": value}}
            for value in ("", "a", "\N{HEDGEHOG}" * 40, "x" * 118, "x" * 119, "x" * 20_000)
        ),
        *({"attributes": {"n" * length: "x"}} for length in (1, 122, 123, 124, 127, 128, 300)),
        *(
            {"attributes": {"name": value}}
            for value in (0, 1, 127, 128, 2**63 - 1, -1, -(2**63), True, False, 0.0, -1.5)
        ),
        {"attributes": {"name": ("one", "two")}},
        {"attributes": {"name": ()}},
        {"attributes": dropping(BoundedAttributes(attributes={"one": 1, "two": "two"}))},
        {"attributes": None},
        {"parent": HERE},
        {"parent": ELSEWHERE},
        {"context": ELSEWHERE},
        {"links": [Link(ELSEWHERE), Link(HERE)]},
        {"status": Status(StatusCode.ERROR)},
        *({"kind": kind} for kind in SpanKind),
    ],
    ids=" ".join,
)
def test_whatever_is_on_a_span_is_encoded_as_the_vendor_does(fields: dict[str, Any]) -> None:
    spans = [a_span(), a_span(**fields), a_span()]
    assert encode_spans(spans) == trace_encoder.encode_spans(spans)


def test_no_spans_are_no_message() -> None:
    assert encode_spans([]) == trace_encoder.encode_spans([])


@pytest.mark.parametrize(("protocol", "method"), [("http/protobuf", "export"), ("grpc", "_translate_data")])
def test_what_exports_encodes_so(protocol: str, method: str) -> None:
    exporter = otlp_exporter({"OTEL_EXPORTER_OTLP_PROTOCOL": protocol}, "http://127.0.0.1:1")
    try:
        assert getattr(type(exporter), method).__globals__["encode_spans"] is encode_spans
    finally:
        exporter.shutdown()
