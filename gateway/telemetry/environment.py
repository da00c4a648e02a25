"""What the standard OTEL_* variables say: whether spans are exported, where to, as what, and which of them.

Rule: read from the mapping that is given, never from the process; only what an exporter wants to know about its
collector (headers, certificates, compression, timeout) it reads for itself. What cannot be used is warned of, and the
default holds: telemetry is no reason not to start.
Source: OpenTelemetry's "Environment Variable Specification".
"""

import importlib
import logging
from collections.abc import Mapping
from typing import Final, TypeVar, cast
from urllib.parse import unquote

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import SpanExporter
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    DEFAULT_OFF,
    DEFAULT_ON,
    ParentBased,
    Sampler,
    TraceIdRatioBased,
)

from gateway.telemetry import names

_EXPORTERS: Final = {
    "http/protobuf": "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "grpc": "opentelemetry.exporter.otlp.proto.grpc.trace_exporter",
}
_SAMPLERS: Final[Mapping[str, Sampler]] = {
    "always_on": ALWAYS_ON,
    "always_off": ALWAYS_OFF,
    "parentbased_always_on": DEFAULT_ON,
    "parentbased_always_off": DEFAULT_OFF,
}
_log = logging.getLogger(__name__)
_Default = TypeVar("_Default", int, None)


def endpoint(environ: Mapping[str, str]) -> str | None:
    """Where spans go; None: nowhere."""
    exporter = _text(environ, "OTEL_TRACES_EXPORTER", "otlp")
    if _text(environ, "OTEL_SDK_DISABLED").lower() == "true" or exporter == "none":
        return None
    if exporter != "otlp":
        _log.warning("OTEL_TRACES_EXPORTER: expected otlp or none, not %s; no spans are exported", exporter)
        return None
    base = _text(environ, "OTEL_EXPORTER_OTLP_ENDPOINT")
    if base and _protocol(environ) == "http/protobuf":
        base = f"{base.rstrip('/')}/v1/traces"
    return _text(environ, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", base) or None


def otlp_exporter(environ: Mapping[str, str], endpoint: str) -> SpanExporter:
    """The vendor's exporter to an endpoint."""
    # Imported only where they are used: gRPC alone takes a tenth of a second to load.
    vendor = importlib.import_module(_EXPORTERS[_protocol(environ)])
    return cast(SpanExporter, vendor.OTLPSpanExporter(endpoint=endpoint))


def sampler(environ: Mapping[str, str]) -> Sampler:
    """The sampler; `parentbased_always_on` by default."""
    named = _text(environ, "OTEL_TRACES_SAMPLER", "parentbased_always_on").lower()
    if named in _SAMPLERS:
        return _SAMPLERS[named]
    try:
        by_ratio = TraceIdRatioBased(float(_text(environ, "OTEL_TRACES_SAMPLER_ARG", "1")))
        return {"traceidratio": by_ratio, "parentbased_traceidratio": ParentBased(by_ratio)}[named]
    except (KeyError, ValueError):
        _log.warning("OTEL_TRACES_SAMPLER, OTEL_TRACES_SAMPLER_ARG: expected a known sampler and a share from 0 to 1")
        return DEFAULT_ON


def resource(environ: Mapping[str, str], version: str) -> Resource:
    """What the spans are from; `service.name` is responses-gateway by default."""
    pairs = (pair.partition("=") for pair in _text(environ, "OTEL_RESOURCE_ATTRIBUTES").split(","))
    named = {name.strip(): unquote(value.strip()) for name, equals, value in pairs if equals and name.strip()}
    named |= {names.SERVICE_NAME: text} if (text := _text(environ, "OTEL_SERVICE_NAME")) else {}
    made = Resource.create({names.SERVICE_NAME: names.SERVICE, names.SERVICE_VERSION: version, **named})
    return _HashedOnce(made)


class _HashedOnce(Resource):
    """The vendor's encoder wants a resource's hash with each span, and that is one of its attributes as JSON."""

    def __init__(self, resource: Resource) -> None:
        super().__init__(dict(resource.attributes), resource.schema_url)
        self._hash = hash(resource)

    def __hash__(self) -> int:
        return self._hash


def limit(environ: Mapping[str, str], what: str, default: _Default) -> int | _Default:
    """A limit of spans: `OTEL_SPAN_<what>_LIMIT`, or for attributes the one of everything, `OTEL_<what>_LIMIT`."""
    for name in (f"OTEL_SPAN_{what}_LIMIT", f"OTEL_{what}_LIMIT"):
        if _text(environ, name) and (what.startswith("ATTRIBUTE") or "_SPAN_" in name):
            return whole_number(environ, name, 0) or default
    return default


def whole_number(environ: Mapping[str, str], name: str, default: int) -> int:
    """A variable that is a whole number above 0."""
    text = _text(environ, name, str(default))
    if text.isdecimal() and int(text) > 0:
        return int(text)
    _log.warning("%s: expected a whole number above 0, not %s", name, text)
    return default


def _protocol(environ: Mapping[str, str]) -> str:
    general = _text(environ, "OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    named = _text(environ, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", general)
    if named in _EXPORTERS:
        return named
    _log.warning("OTEL_EXPORTER_OTLP_PROTOCOL: expected http/protobuf or grpc, not %s", named)
    return "http/protobuf"


def _text(environ: Mapping[str, str], name: str, default: str = "") -> str:
    """An empty variable counts as one that is not set."""
    return environ.get(name, "").strip() or default
