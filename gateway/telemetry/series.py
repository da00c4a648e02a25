"""Series of a table of metrics: made from their catalogue, bounded, rendered for a scrape.

Rule: the only importer of prometheus_client; no I/O, no clock, any thread. Label values are those of the catalogue;
others are learnt up to a limit and `other` beyond it, so that nobody's text can grow the scrape. Called by `metrics`
and by other projections of facts into metrics.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import product
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    exposition,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from gateway.domain.response import Trace
from gateway.telemetry.catalogue import MODEL, Metric

OTHER = "other"
_LEARNT_VALUES = 64
_LABEL_CHARACTERS = 100

Reading = Callable[[], float | None]
"""A gauge that is read when it is scraped, in the scrape's thread; None: there is nothing to show."""


class Registry:
    """Where series are and are scraped from. With the process's own metrics."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the vendor's
        self.vendors = CollectorRegistry()
        for own in (ProcessCollector, PlatformCollector, GCCollector):
            own(registry=self.vendors)

    def render(self, accept: str) -> tuple[str, bytes]:
        """The scrape for an `Accept` header: content type and body. CPU only; safe in a thread of its own."""
        encode, content_type = exposition.choose_encoder(accept)
        return content_type, encode(self.vendors)


class Series:
    """The series of a table of metrics. `room`: how many values of a label are learnt, where that is a setting."""

    def __init__(self, registry: Registry, metrics: Iterable[Metric], room: Mapping[str, int]) -> None:
        self._metrics = {metric.name: metric for metric in metrics}
        self._known: dict[str, set[str]] = {}
        self._room = dict(room)
        self._families: dict[str, Any] = {}
        self._children: dict[tuple[str, ...], Any] = {}
        self._gauges = _Gauges(self._metrics.values())
        registry.vendors.register(self._gauges)
        for metric in self._metrics.values():
            for label, values in metric.labels.items():
                self._known.setdefault(label, set()).update(values)
                self._room.setdefault(label, _LEARNT_VALUES)
            if metric.kind != "gauge":
                self._families[metric.name] = _family(registry, metric)
                self._make(metric, metric.labels)

    def inc(self, name: str, *values: str, by: float = 1, trace: Trace | None = None) -> None:
        """Count. `trace`: of the response that is counted; its id is an exemplar where it is sampled."""
        self._child(name, values).inc(by, _exemplar(trace))

    def observe(self, name: str, amount: float, *values: str, trace: Trace | None = None) -> None:
        """Put an amount into a histogram; a negative one, made by a clock that went back, is 0."""
        self._child(name, values).observe(max(amount, 0), _exemplar(trace))

    def show(self, name: str, amounts: Mapping[tuple[str, ...], float]) -> None:
        """All that a gauge shows from now on, by label values. Closed sets of labels are there at 0 besides."""
        bounded = {self._bounded(name, values): amount for values, amount in amounts.items()}
        self._gauges.amounts[name] = {**dict.fromkeys(_closed(self._metrics[name].labels), 0.0), **bounded}

    def read(self, name: str, reading: Reading) -> None:
        """A gauge without labels is read at each scrape."""
        self._gauges.readings[name] = reading

    def _make(self, metric: Metric, labels: Mapping[str, tuple[str, ...]]) -> None:
        family = self._families[metric.name]
        for values in _closed(labels) if labels else ((),):
            self._children.setdefault((metric.name, *values), family.labels(*values) if values else family)

    def _child(self, name: str, values: tuple[str, ...]) -> Any:
        child = self._children.get((name, *values))
        if child is not None:
            return child
        bounded = self._bounded(name, values)
        return self._children.setdefault((name, *bounded), self._families[name].labels(*bounded))

    def _bounded(self, name: str, values: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(self._admitted, self._metrics[name].labels, values))

    def _admitted(self, label: str, value: str) -> str:
        known = self._known[label]
        if value in known:
            return value
        if not self._room[label] or len(value) > _LABEL_CHARACTERS or not value.isprintable():
            value = OTHER
        elif value != OTHER:
            self._room[label] -= 1
        if value not in known:
            known.add(value)
            if label == MODEL:
                self._begin_model(value)
        return value

    def _begin_model(self, model: str) -> None:
        """The series of a model begin at 0 when its name is learnt, so that no rate loses their first step."""
        for metric in self._metrics.values():
            if metric.labels.get(MODEL) and metric.kind != "gauge":
                self._make(metric, {**metric.labels, MODEL: (model,)})


class _Gauges(Collector):
    """Gauges as they stand: one that has nothing to show has no series, which no `Gauge` of the vendor's can."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = [metric for metric in metrics if metric.kind == "gauge"]
        self.amounts: dict[str, Mapping[tuple[str, ...], float]] = {
            metric.name: dict.fromkeys(_closed(metric.labels), 0.0) for metric in self._metrics
        }
        self.readings: dict[str, Reading] = {}

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """What the vendor asks for."""
        for metric in self._metrics:
            family = GaugeMetricFamily(metric.name, metric.help, labels=tuple(metric.labels))
            reading = self.readings.get(metric.name)
            amounts = self.amounts[metric.name] if reading is None else _one(reading())
            for values, amount in amounts.items():
                family.add_metric(values, amount)
            yield family


def _family(registry: Registry, metric: Metric) -> Any:
    labels = tuple(metric.labels)
    if metric.kind == "counter":
        return Counter(metric.name, metric.help, labels, registry=registry.vendors)
    return Histogram(metric.name, metric.help, labels, registry=registry.vendors, buckets=metric.buckets)


def _closed(labels: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    """Every combination of the values that are named; none where there are no labels."""
    return product(*labels.values()) if labels else iter(())


def _one(amount: float | None) -> dict[tuple[str, ...], float]:
    return {} if amount is None else {(): amount}


def _exemplar(trace: Trace | None) -> dict[str, str] | None:
    return {"trace_id": f"{trace.trace_id:032x}"} if trace is not None and trace.sampled else None
