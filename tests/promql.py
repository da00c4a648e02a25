"""PromQL as a tree, for tests: what an expression reads, and whether there is such a thing."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

import promql_parser

from dashboards import levels
from gateway.domain.errors import Origin
from gateway.telemetry.catalogue import METRICS

PROCESS = {
    "process_cpu_seconds_total",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
}
"""Of the Python client's own metrics those that are used."""
OF_PROMETHEUS = {"up": set(), "ALERTS": {"alertname", "alertstate", "severity"}}
OF_COLLECTOR = {
    "otelcol_receiver_refused_spans": {"receiver", "transport"},
    "otelcol_exporter_enqueue_failed_spans": {"exporter"},
    "otelcol_exporter_send_failed_spans": {"exporter"},
    "otelcol_exporter_queue_size": {"exporter", "data_type"},
    "otelcol_exporter_queue_capacity": {"exporter", "data_type"},
}
"""Of the Collector's own metrics those that are used, with labels: `deploy/check_collector` asks a real one."""
SCRAPED = {"job", "instance"}
"""Labels that Prometheus gives every series."""
ORIGINS = ("none", *get_args(Origin))
"""Who can be to blame; some metrics learn it."""
RECORDED = {rule["record"]: rule["expr"] for group in levels.groups() for rule in group["rules"]}


@dataclass(frozen=True)
class Selector:
    """`name{label op "value", ...}`."""

    name: str
    matchers: tuple[tuple[str, str, str], ...]


def written_out(
    expression: str, *, job: str = ".+", model: str = ".+", interval: str = "5m", range_: str = "6h"
) -> str:
    """An expression of a dashboard with its variables filled in, as for All."""
    values = {"$job": job, "$instance": ".+", "$model": model, "$__rate_interval": interval, "$__range": range_}
    for variable, value in values.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression, expression
    return expression


def nodes(expression: str) -> Iterator[Any]:
    """Every node of the tree. Raises ValueError where it is no PromQL."""
    found: list[Any] = []
    promql_parser.walk(promql_parser.parse(expression), lambda node: found.append(node))
    yield from found


def selectors(expression: str) -> list[Selector]:
    """The series that an expression selects."""
    found = [node for node in nodes(expression) if isinstance(node, promql_parser.VectorSelector)]
    return [
        Selector(node.name, tuple((one.name, _OPS[str(one.op)], one.value) for one in node.matchers.matchers))
        for node in found
    ]


_OPS = {"MatchOp.Equal": "=", "MatchOp.NotEqual": "!=", "MatchOp.Re": "=~", "MatchOp.NotRe": "!~"}


def labels_of(name: str) -> dict[str, tuple[str, ...]] | None:
    """The labels of a series and the values they have from the start; None: there is no such metric."""
    for metric in METRICS:
        if name == metric.name and metric.kind != "histogram":
            return {**metric.labels, **({"origin": ORIGINS} if "origin" in metric.labels else {})}
        if metric.kind == "histogram" and name.removeprefix(metric.name) in ("_bucket", "_sum", "_count"):
            return {**metric.labels, **({"le": ()} if name.endswith("_bucket") else {})}
    if name in PROCESS or name in RECORDED:
        return {}
    foreign = OF_PROMETHEUS | OF_COLLECTOR
    return dict.fromkeys(foreign[name], ()) if name in foreign else None
