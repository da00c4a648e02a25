"""Metrics as a projection of facts: `Metrics.observe` is an observer, `Metrics.render` the scrape.

Rule: the only importer of prometheus_client; no I/O, no clock. What there is to count is in `catalogue.METRICS`, how a
fact counts is one entry of a table. Label values are those of the catalogue; others are learnt up to a limit and
`other` beyond it, so that nobody's text can grow the scrape.
"""

import platform
from collections.abc import Callable
from itertools import product
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    exposition,
)

from gateway.domain import facts
from gateway.domain.response import TERMINAL, Ending, Response, Status, Trace
from gateway.telemetry import names
from gateway.telemetry.catalogue import METRICS, NO_STATUS, UNKNOWN, Kind, Metric, table

__all__ = ["Metrics", "table"]

OTHER = "other"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"})
"""RFC 9110, RFC 5789 and the HTTP QUERY method: any other is `_OTHER`, as the HTTP conventions say."""
_LEARNT_VALUES = 64
_LABEL_CHARACTERS = 100


_SIDES: dict[facts.Left, tuple[str, str]] = {
    "client": ("client", "left"),
    "slow": ("client", "slow"),
    "drain": ("gateway", "drain"),
    "error": ("gateway", "error"),
}
_VENDOR: dict[Kind, Any] = {
    "counter": Counter,
    "gauge": Gauge,
    "histogram": Histogram,
}


class Metrics:
    """Counts what the facts say. `registry`: where to; None makes one of its own, with the process's own metrics.

    `max_models`: how many model names are told apart. Only names that upstream confirmed are: what a request asks for
    is anybody's text.
    """

    def __init__(self, registry: CollectorRegistry | None, max_models: int, *, version: str = "unknown") -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the vendor's
        if registry is None:
            registry = CollectorRegistry()
            ProcessCollector(registry=registry)
        self._registry = registry
        self._labels: dict[str, tuple[str, ...]] = {}
        self._known: dict[str, set[str]] = {}
        self._room = {"model": max_models}
        self._families: dict[str, Any] = {}
        self._children: dict[tuple[str, ...], Any] = {}
        for metric in METRICS:
            self._register(metric)
        self._live: dict[str, tuple[str, str]] = {}
        self._stuck: dict[str, str] = {}
        self._child(names.BUILD, version, platform.python_version()).set(1)
        self._project: dict[type[facts.Fact], Callable[[Any], None]] = {
            facts.Created: self._created,
            facts.Refused: lambda f: self._inc(names.REFUSED, f.response.mode, _status_class(f.status)),
            facts.StatusChanged: self._status_changed,
            facts.FirstOutput: self._first_output,
            facts.Ended: self._ended,
            facts.BecameStuck: self._became_stuck,
            facts.Recovered: self._recovered,
            facts.Contradicted: lambda f: self._inc(names.CONTRADICTIONS, f.what),
            facts.UpstreamCut: lambda f: self._inc(names.CUTS, f.reason),
            facts.Reattached: lambda f: self._inc(names.REATTACHES, f.outcome),
            facts.TakenUp: self._taken_up,
            facts.Appended: self._appended,
            facts.UpstreamPolled: lambda f: self._inc(names.UPSTREAM_POLLS, f.outcome),
            facts.ClientPolled: lambda f: self._inc(names.CLIENT_POLLS, f.outcome, f.served),
            facts.Attached: lambda f: self._inc(names.ATTACHES, f.kind, f.form),
            facts.Detached: self._detached,
            facts.TokenIssued: lambda f: self._inc(names.TOKENS_ISSUED),
            facts.TokenRedeemed: lambda f: self._inc(names.TOKENS_REDEEMED, f.how, f.form),
            facts.Cancelled: lambda f: self._inc(names.CANCELS, _status_class(f.status)),
            facts.Purged: lambda f: self._inc(names.PURGED, by=f.records),
            facts.StoreFailed: lambda f: self._inc(names.STORE_FAILURES, f.operation),
            facts.Untracked: lambda f: self._inc(names.UNTRACKED, f.reason, f.mode or UNKNOWN),
            facts.RequestServed: self._request_served,
        }

    def observe(self, fact: facts.Fact) -> None:
        """Count what happened: an observer for `Telemetry`."""
        project = self._project.get(type(fact))
        if project is not None:
            project(fact)

    def render(self, accept: str) -> tuple[str, bytes]:
        """The scrape for an `Accept` header: content type and body. CPU only; safe in a thread of its own."""
        encode, content_type = exposition.choose_encoder(accept)
        return content_type, encode(self._registry)

    def spans_exported(self, spans: int) -> None:
        """The collector took spans. From any thread."""
        self._inc(names.SPANS_EXPORTED, by=spans)

    def spans_dropped(self, reason: str, spans: int) -> None:
        """Spans were lost. From any thread."""
        self._inc(names.SPANS_DROPPED, reason, by=spans)

    def observer_removed(self, observer: object, error: Exception) -> None:
        """An observer raised and was removed: for `Telemetry(on_removed=...)`."""
        self._inc(names.OBSERVERS_REMOVED)

    # What each fact counts

    def _created(self, fact: facts.Created) -> None:
        self._inc(names.CREATED, fact.response.mode, _model(fact.response), trace=fact.response.trace)
        self._now_live(fact.response)

    def _status_changed(self, fact: facts.StatusChanged) -> None:
        response = fact.response
        if fact.after not in TERMINAL:
            self._now_live(response)
        if fact.before is Status.QUEUED:
            self._observe(
                names.QUEUE, fact.at - response.created_at, response.mode, _observed(response), trace=response.trace
            )

    def _first_output(self, fact: facts.FirstOutput) -> None:
        response = fact.response
        waited = fact.at - response.created_at
        self._observe(names.FIRST_OUTPUT, waited, response.mode, _observed(response), trace=response.trace)

    def _ended(self, fact: facts.Ended) -> None:
        response, trace = fact.response, fact.response.trace
        self._not_live(response.key)
        model, mode = _model(response), response.mode
        if response.terminal:
            self._inc(names.TERMINAL, _status(response), mode, model, "none", "none", trace=trace)
        if fact.late:
            self._inc(names.LATE, _status(response))
        elif response.ending is not Ending.TERMINAL:
            self._inc(names.GIVEN_UP, response.ending or OTHER, mode, trace=trace)
        if response.ending is Ending.TERMINAL and response.usage is not None:
            usage = response.usage
            for kind in ("input", "cached", "output", "reasoning"):
                self._inc(names.TOKENS, kind, model, by=getattr(usage, kind))
        if fact.late:
            return
        if response.terminal and response.status is not None:
            self._observe(names.DURATION, fact.at - response.created_at, mode, response.status, trace=trace)
        self._observe(names.POLLS_PER_RESPONSE, response.counts.client_polls, mode, "client")
        self._observe(names.POLLS_PER_RESPONSE, response.counts.upstream_polls, mode, "gateway")

    def _became_stuck(self, fact: facts.BecameStuck) -> None:
        if fact.response.stuck is not None:
            self._inc(names.BECAME_STUCK, fact.response.stuck, trace=fact.response.trace)
        self._now_stuck(fact.response.key, fact.response.stuck)

    def _recovered(self, fact: facts.Recovered) -> None:
        self._inc(names.RECOVERED, fact.reason)
        self._now_stuck(fact.response.key, None)

    def _taken_up(self, fact: facts.TakenUp) -> None:
        self._inc(names.TAKEN_UP, fact.how)
        self._now_live(fact.response)
        if not fact.response.ended:
            self._now_stuck(fact.response.key, fact.response.stuck)

    def _appended(self, fact: facts.Appended) -> None:
        self._inc(names.APPENDED, by=fact.events)
        self._observe(names.APPEND_SECONDS, fact.seconds)
        self._observe(names.APPEND_BATCH, fact.events)

    def _detached(self, fact: facts.Detached) -> None:
        self._inc(names.DELIVERED, by=fact.delivered)
        self._inc(names.REPLAYED, by=fact.replayed)
        if fact.how in _SIDES:
            self._inc(names.DISCONNECTS, *_SIDES[fact.how])

    def _request_served(self, fact: facts.RequestServed) -> None:
        method = fact.method if fact.method in METHODS else names.ERROR_OTHER
        self._inc(names.REQUESTS, fact.route, method, _status_class(fact.status), fact.origin or "none")
        self._observe(names.HEADERS_SECONDS, fact.seconds, fact.route)

    # The gauges remember what each response counts as: a fact told twice, or in another order, cannot skew them.

    def _now_live(self, response: Response) -> None:
        if response.ended:
            self._not_live(response.key)
            return
        counted, now = self._live.get(response.key), (_status(response), str(response.mode))
        if counted == now:
            return
        if counted is not None:
            self._child(names.LIVE, *counted).dec()
        self._live[response.key] = now
        self._child(names.LIVE, *now).inc()

    def _not_live(self, key: str) -> None:
        counted = self._live.pop(key, None)
        if counted is not None:
            self._child(names.LIVE, *counted).dec()
        self._now_stuck(key, None)

    def _now_stuck(self, key: str, reason: str | None) -> None:
        counted = self._stuck.pop(key, None)
        if counted is not None:
            self._child(names.STUCK, counted).dec()
        if reason is not None:
            self._stuck[key] = reason
            self._child(names.STUCK, reason).inc()

    # Series

    def _register(self, metric: Metric) -> None:
        extra = {"buckets": metric.buckets} if metric.buckets else {}
        family = _VENDOR[metric.kind](metric.name, metric.help, tuple(metric.labels), registry=self._registry, **extra)
        self._families[metric.name], self._labels[metric.name] = family, tuple(metric.labels)
        for label, values in metric.labels.items():
            self._known.setdefault(label, set()).update(values)
            self._room.setdefault(label, _LEARNT_VALUES)
        for values in product(*metric.labels.values()):
            self._children[metric.name, *values] = family.labels(*values) if values else family

    def _child(self, name: str, *values: str) -> Any:
        child = self._children.get((name, *values))
        if child is not None:
            return child
        admitted = tuple(map(self._admitted, self._labels[name], values))
        return self._children.setdefault((name, *admitted), self._families[name].labels(*admitted))

    def _admitted(self, label: str, value: str) -> str:
        known = self._known[label]
        if value in known:
            return value
        if not self._room[label] or len(value) > _LABEL_CHARACTERS or not value.isprintable():
            return OTHER
        self._room[label] -= 1
        known.add(value)
        return value

    def _inc(self, name: str, *values: str, by: float = 1, trace: Trace | None = None) -> None:
        self._child(name, *values).inc(by, _exemplar(trace))

    def _observe(self, name: str, amount: float, *values: str, trace: Trace | None = None) -> None:
        self._child(name, *values).observe(max(amount, 0), _exemplar(trace))


def _exemplar(trace: Trace | None) -> dict[str, str] | None:
    return {"trace_id": f"{trace.trace_id:032x}"} if trace is not None and trace.sampled else None


def _status(response: Response) -> str:
    return response.status or NO_STATUS


def _model(response: Response) -> str:
    return response.model or UNKNOWN


def _observed(response: Response) -> facts.Observed:
    return "stream" if response.pumped else "poll"


def _status_class(status: int) -> str:
    return f"{status // 100}xx" if 100 <= status < 600 else OTHER
