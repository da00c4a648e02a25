"""Series of a table of metrics: made from their catalogue, bounded, counted, rendered for a scrape.

Rule: the only importer of prometheus_client; no I/O, any thread. Label values are those of the catalogue; others are
learnt up to a limit and `other` beyond it, so that nobody's text can grow the scrape. Called by `metrics` and by other
projections of facts into metrics.

The numbers are kept here, and become the vendor's families when they are scraped: a request counts a dozen things, each
of which costs the vendor's own counters and histograms three times as much, and with an exemplar six times.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate, product
from threading import Lock
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    exposition,
)
from prometheus_client.core import (
    CounterMetricFamily,
    Exemplar,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from gateway.domain.response import Trace
from gateway.telemetry.catalogue import MODEL, Metric

OTHER = "other"
_LEARNT_VALUES = 64
_LABEL_CHARACTERS = 100

Reading = Callable[[], float | None]
"""A gauge that is read when it is scraped, in the scrape's thread; None: there is nothing to show."""
_Seen = tuple[int, float, float]
"""An exemplar: of which trace, how much, when (unix seconds)."""


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


@dataclass(slots=True)
class _Count:
    """A counter's number."""

    value: float = 0.0
    seen: _Seen | None = None


@dataclass(slots=True)
class _Spread:
    """A histogram's numbers: by bucket, each without those below it; the last one has no bound."""

    counts: list[int]
    sum: float = 0.0
    seen: dict[int, _Seen] = field(default_factory=dict)


class Series(Collector):
    """The series of a table of metrics. `room`: how many values of a label are learnt, where that is a setting."""

    def __init__(self, registry: Registry, metrics: Iterable[Metric], room: Mapping[str, int]) -> None:
        self._metrics = {metric.name: metric for metric in metrics}
        self._known: dict[str, set[str]] = {}
        self._room = dict(room)
        self._lock = Lock()
        self._counted: dict[str, dict[tuple[str, ...], Any]] = {}
        self._shown: dict[str, Mapping[tuple[str, ...], float]] = {}
        self._readings: dict[str, Reading] = {}
        for metric in self._metrics.values():
            for label, values in metric.labels.items():
                self._known.setdefault(label, set()).update(values)
                self._room.setdefault(label, _LEARNT_VALUES)
            if metric.kind == "gauge":
                self._shown[metric.name] = dict.fromkeys(_closed(metric.labels), 0.0)
            else:
                self._counted[metric.name] = {}
                self._begin(metric, metric.labels)
        registry.vendors.register(self)

    def inc(self, name: str, *values: str, by: float = 1, trace: Trace | None = None) -> None:
        """Count. `trace`: of the response that is counted; its id is an exemplar where it is sampled."""
        count: _Count = self._counted[name].get(values) or self._learnt(name, values)
        with self._lock:
            count.value += by
            if trace is not None and trace.sampled:
                count.seen = trace.trace_id, by, time.time()

    def observe(self, name: str, amount: float, *values: str, trace: Trace | None = None) -> None:
        """Put an amount into a histogram; a negative one, made by a clock that went back, is 0."""
        spread: _Spread = self._counted[name].get(values) or self._learnt(name, values)
        amount = max(amount, 0)
        bucket = bisect_left(self._metrics[name].buckets, amount)
        with self._lock:
            spread.counts[bucket] += 1
            spread.sum += amount
            if trace is not None and trace.sampled:
                spread.seen[bucket] = trace.trace_id, amount, time.time()

    def show(self, name: str, amounts: Mapping[tuple[str, ...], float]) -> None:
        """All that a gauge shows from now on, by label values; what has no room of its own is added up.

        Closed sets of labels, for each model that is known, are there at 0 besides.
        """
        bounded = [(self._bounded(name, values), amount) for values, amount in amounts.items()]
        shown = dict.fromkeys(_closed(self._named(self._metrics[name].labels)), 0.0)
        for values, amount in bounded:
            shown[values] = shown.get(values, 0.0) + amount
        self._shown[name] = shown

    def read(self, name: str, reading: Reading) -> None:
        """A gauge without labels is read at each scrape."""
        self._readings[name] = reading

    def collect(self) -> Iterator[Family]:
        """What the vendor asks for."""
        for metric in self._metrics.values():
            if metric.kind == "gauge":
                yield self._gauge(metric)
            elif metric.kind == "counter":
                yield self._counter(metric)
            else:
                yield self._histogram(metric)

    def _gauge(self, metric: Metric) -> Family:
        """One that has nothing to show has no series, which no `Gauge` of the vendor's can."""
        family = GaugeMetricFamily(metric.name, metric.help, labels=tuple(metric.labels))
        reading = self._readings.get(metric.name)
        amounts = self._shown[metric.name] if reading is None else _one(reading())
        for values, amount in amounts.items():
            family.add_metric(values, amount)
        return family

    def _counter(self, metric: Metric) -> Family:
        family = CounterMetricFamily(metric.name, metric.help, labels=tuple(metric.labels))
        for values, count in tuple(self._counted[metric.name].items()):
            with self._lock:
                value, seen = count.value, count.seen
            family.add_metric(values, value, exemplar=_exemplar(seen))
        return family

    def _histogram(self, metric: Metric) -> Family:
        family = HistogramMetricFamily(metric.name, metric.help, labels=tuple(metric.labels))
        bounds = [floatToGoString(bound) for bound in (*metric.buckets, float("inf"))]  # type: ignore[no-untyped-call]
        for values, spread in tuple(self._counted[metric.name].items()):
            with self._lock:
                counts, total, seen = tuple(spread.counts), spread.sum, dict(spread.seen)
            exemplars = [_exemplar(seen.get(bucket)) for bucket in range(len(counts))]
            buckets: Any = tuple(zip(bounds, accumulate(counts), exemplars, strict=True))
            family.add_metric(values, buckets, total)
        return family

    def _named(self, labels: Mapping[str, tuple[str, ...]]) -> Mapping[str, tuple[str, ...]]:
        """Labels with the models that are known by now."""
        return {**labels, MODEL: tuple(sorted(self._known[MODEL]))} if labels.get(MODEL) else labels

    def _begin(self, metric: Metric, labels: Mapping[str, tuple[str, ...]]) -> None:
        for values in _closed(labels) if labels else ((),):
            self._made(metric, values)

    def _learnt(self, name: str, values: tuple[str, ...]) -> Any:
        return self._made(self._metrics[name], self._bounded(name, values))

    def _made(self, metric: Metric, values: tuple[str, ...]) -> Any:
        new = _Count() if metric.kind == "counter" else _Spread([0] * (len(metric.buckets) + 1))
        return self._counted[metric.name].setdefault(values, new)

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
                self._begin(metric, {**metric.labels, MODEL: (model,)})


def _closed(labels: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    """Every combination of the values that are named; none where there are no labels."""
    return product(*labels.values()) if labels else iter(())


def _one(amount: float | None) -> dict[tuple[str, ...], float]:
    return {} if amount is None else {(): amount}


def _exemplar(seen: _Seen | None) -> Exemplar | None:
    return None if seen is None else Exemplar({"trace_id": f"{seen[0]:032x}"}, *seen[1:])
