"""PromQL of panels: which series are chosen, which metrics are read, quantiles.

Rule: it is written as an operator would write it, with `@` where the chosen jobs and instances are matched and `@@`
where the chosen models are, too. Pure.
"""

import re

RATE = "$__rate_interval"
RANGE = "$__range"
METRIC = re.compile(
    r"\b(?:[a-z]+:)?responses_gateway_[a-z0-9_]+(?::[a-z0-9_]+)?|\b(?:process_[a-z_]+|otelcol_[a-z_]+|up|ALERTS)\b(?=\{)"
)
"""A metric's name: one of the gateway's, that a rule records, of the process, of the Collector or of Prometheus."""
COLLECTOR = 'job="otel-collector"'
"""PromQL: the Collector, by the name of its scrape job."""

_CHOSEN = 'job=~"$job", instance=~"$instance"'
_PART = re.compile(r"_(bucket|sum|count)$")


def chosen(expression: str) -> str:
    """PromQL with its `@` and `@@` written out."""
    return expression.replace("@@", _CHOSEN + ', model=~"$model"').replace("@", _CHOSEN)


def metrics_of(expression: str) -> list[str]:
    """The metrics of an expression, each once, in order; a histogram by its own name."""
    return list(dict.fromkeys(_PART.sub("", name) for name in METRIC.findall(expression)))


def quantile(share: float, histogram: str, where: str = "@", by: str = "") -> str:
    """PromQL: a quantile of a histogram."""
    groups = f"le, {by}" if by else "le"
    return f"histogram_quantile({share:g}, sum by ({groups}) (rate({histogram}_bucket{{{where}}}[{RATE}])))"


def per_second(series: str, by: str = "") -> str:
    """PromQL: how fast counters grow, added up."""
    return f"{_sum(by)}(rate({series}[{RATE}]))"


def per_minute(series: str, by: str = "") -> str:
    """PromQL: the same for what is rare."""
    return f"60 * {per_second(series, by)}"


def each(series: str, by: str = "") -> str:
    """PromQL: how much counters grew in each interval; those that did not are left out."""
    return f"{_sum(by)}(increase({series}[{RATE}])) > 0"


def in_all(series: str, by: str = "") -> str:
    """PromQL: how much counters grew in the time that is shown."""
    return f"{_sum(by)}(increase({series}[{RANGE}]))"


def _sum(by: str) -> str:
    return f"sum by ({by}) " if by else "sum"
