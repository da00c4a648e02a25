"""Alerts on the OpenTelemetry Collector between the gateways and the backend: what it holds back, refuses and loses.

Rule: none of them pages, as traffic does not notice. Its metrics are named as it names them with the file
`otel-collector.yaml`; other Collectors that Prometheus may know are none of ours.
"""

from dashboards import runtime
from dashboards.alert import WHERE, Alert
from dashboards.promql import COLLECTOR


def _grew(counter: str, by: str) -> str:
    """PromQL: by how much a counter grew, which is not there before the first thing that it counts."""
    series = f"{counter}{{{COLLECTOR}}}"
    return f"sum by ({by}) (increase({series}[15m])) > 0\nor\nsum by ({by}) ({series} unless {series} offset 15m) > 0"


_RECEIVER, _EXPORTER = "job, instance, receiver", "job, instance, exporter"
_TAKEN, _ROOM = (
    f"sum by (job, instance, exporter, data_type) (otelcol_exporter_queue_{part}{{{COLLECTOR}}})"
    for part in ("size", "capacity")
)

ALERTS: tuple[Alert, ...] = (
    Alert(
        "ResponsesGatewayCollectorDown",
        "warning",
        f"up{{{COLLECTOR}}} == 0",
        "5m",
        "5m",
        f"The collector {WHERE} cannot be scraped.",
        "Prometheus gets no metrics from it. While it is away gateways keep the generation spans, and lose the smaller "
        "ones.",
        (runtime.DASHBOARD, runtime.WAITING),
        "no scrape of it for 5 minutes",
        chosen=(),
    ),
    Alert(
        "ResponsesGatewayCollectorQueueNearlyFull",
        "warning",
        f"{_TAKEN}\n/\n{_ROOM} > 0.8",
        "5m",
        "10m",
        f"The queue of the collector {WHERE} for {{{{ $labels.exporter }}}} is nearly full.",
        "{{ $value | humanizePercentage }} of it is taken: the backend does not keep up, or is away. When it is full, "
        "the collector refuses what it is sent.",
        (runtime.DASHBOARD, runtime.WAITING),
        "over 80 % of it is taken for 5 minutes",
        chosen=(),
    ),
    Alert(
        "ResponsesGatewayCollectorRefuses",
        "warning",
        _grew("otelcol_receiver_refused_spans", _RECEIVER),
        "1m",
        "15m",
        f"The collector {WHERE} refuses spans.",
        "{{ $value | humanize }} in the last 15 minutes: its memory is at the limit, or its queue is full. Whoever "
        "sent them was told so, and may send them again.",
        (runtime.DASHBOARD, runtime.SPANS),
        "any span in 15 minutes",
        chosen=(),
    ),
    Alert(
        "ResponsesGatewayCollectorLoses",
        "warning",
        _grew("otelcol_exporter_send_failed_spans", _EXPORTER)
        + "\nor\n"
        + _grew("otelcol_exporter_enqueue_failed_spans", _EXPORTER),
        "1m",
        "15m",
        f"The collector {WHERE} loses spans on their way to {{{{ $labels.exporter }}}}.",
        "{{ $value | humanize }} in the last 15 minutes: the backend would not have them, or there was no room in the "
        "queue.",
        (runtime.DASHBOARD, runtime.SPANS),
        "any span in 15 minutes that the backend would not have, or that the queue had no room for",
        chosen=(),
    ),
)
