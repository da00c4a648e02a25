"""Metrics as a projection of facts: `Metrics.observe` is an observer, `Metrics.render` the scrape.

Rule: no I/O, no clock. What there is to count is in `catalogue.METRICS`, how a fact counts is one entry of a table.
"""

import platform
from collections.abc import Callable, Iterable
from typing import Any

from gateway.config import Price
from gateway.domain import facts
from gateway.domain.errors import origin_of
from gateway.domain.models import ByModel
from gateway.domain.response import Ending, Response, Status, Usage
from gateway.telemetry import names
from gateway.telemetry.catalogue import METRICS, MODEL, NO_STATUS, UNKNOWN, table
from gateway.telemetry.generation import went_wrong
from gateway.telemetry.series import OTHER, Reading, Registry, Series

__all__ = ["Metrics", "table"]

_NONE = "none"
_PRICED_TOKENS = 1_000_000


class Metrics:
    """Counts what the facts say. `max_models`: how many model names are told apart. `prices`: by model pattern.

    Only names that upstream confirmed are: what a request asks for is anybody's text.
    """

    def __init__(self, max_models: int, prices: Iterable[tuple[str, Price]] = (), *, version: str = "unknown") -> None:
        self.registry = Registry()
        self._series = Series(self.registry, METRICS, {MODEL: max_models})
        self._price: ByModel[Price | None] = ByModel(prices, None)
        self._inc, self._observe, self._show = self._series.inc, self._series.observe, self._series.show
        self._show(names.BUILD, {(version, platform.python_version()): 1})
        self._project: dict[type[facts.Fact], Callable[[Any], None]] = {
            facts.Created: self._created,
            facts.Refused: lambda f: self._inc(names.REFUSED, f.response.mode, _status_class(f.status)),
            facts.Joined: lambda f: self._inc(names.JOINED, f.by, trace=f.response.trace),
            facts.StatusChanged: self._status_changed,
            facts.FirstOutput: self._first_output,
            facts.Ended: self._ended,
            facts.BecameStuck: self._became_stuck,
            facts.Recovered: lambda f: self._inc(names.RECOVERED, f.reason, _model(f.response)),
            facts.Contradicted: lambda f: self._inc(names.CONTRADICTIONS, f.what),
            facts.UpstreamCut: lambda f: self._inc(names.CUTS, f.reason),
            facts.Reattached: lambda f: self._inc(names.REATTACHES, f.outcome),
            facts.TakenUp: lambda f: self._inc(names.TAKEN_UP, f.how),
            facts.LetGo: lambda f: self._inc(names.LET_GO, f.how),
            facts.Appended: self._appended,
            facts.UpstreamPolled: self._upstream_polled,
            facts.ClientPolled: lambda f: self._inc(names.CLIENT_POLLS, f.outcome, f.served),
            facts.PickedUp: lambda f: self._observe(names.PICKUP, f.seconds, f.by, trace=f.response.trace),
            facts.Attached: self._attached,
            facts.Detached: self._detached,
            facts.Delivered: lambda f: self._observe(names.DELIVERY, f.seconds),
            facts.ResumeRefused: lambda f: self._inc(names.RESUMES_REFUSED, f.reason),
            facts.NumbersSkipped: lambda f: self._inc(names.GAPS),
            facts.TokenIssued: lambda f: self._inc(names.TOKENS_ISSUED),
            facts.TokenRedeemed: lambda f: self._inc(names.TOKENS_REDEEMED, f.how, f.form),
            facts.Cancelled: lambda f: self._inc(names.CANCELS, _status_class(f.status)),
            facts.Purged: lambda f: self._inc(names.PURGED, by=f.records),
            facts.StoreFailed: lambda f: self._inc(names.STORE_FAILURES, f.operation),
            facts.Untracked: lambda f: self._inc(names.UNTRACKED, f.reason, f.mode or UNKNOWN),
            facts.RequestServed: self._request_served,
            facts.Surveyed: self._surveyed,
            facts.StoreMeasured: self._store_measured,
            facts.LoopLagged: lambda f: self._observe(names.LOOP_LAG, f.seconds),
        }

    def observe(self, fact: facts.Fact) -> None:
        """Count what happened: an observer for `Telemetry`."""
        project = self._project.get(type(fact))
        if project is not None:
            project(fact)

    def read(self, name: str, reading: Reading) -> None:
        """A gauge is read at each scrape, in the scrape's thread."""
        self._series.read(name, reading)

    def render(self, accept: str) -> tuple[str, bytes]:
        """The scrape for an `Accept` header: content type and body. CPU only; safe in a thread of its own."""
        return self.registry.render(accept)

    def spans_exported(self, spans: int) -> None:
        """The collector took spans. From any thread."""
        self._inc(names.SPANS_EXPORTED, by=spans)

    def spans_dropped(self, reason: str, spans: int) -> None:
        """Spans were lost. From any thread."""
        self._inc(names.SPANS_DROPPED, reason, by=spans)

    def observer_removed(self, observer: object, error: Exception) -> None:
        """An observer raised and was removed: for `Telemetry(on_removed=...)`."""
        self._inc(names.OBSERVERS_REMOVED)

    # Responses

    def _created(self, fact: facts.Created) -> None:
        self._inc(names.CREATED, fact.response.mode, _model(fact.response), trace=fact.response.trace)

    def _status_changed(self, fact: facts.StatusChanged) -> None:
        response = fact.response
        soon = not response.parameters.completion_window_s
        if fact.before is Status.QUEUED and response.mode.background and soon:
            waited = fact.at - response.created_at
            self._observe(names.QUEUE, waited, _observed(response), _model(response), trace=response.trace)

    def _first_output(self, fact: facts.FirstOutput) -> None:
        response = fact.response
        waited = fact.at - response.created_at
        self._observe(names.FIRST_OUTPUT, waited, response.mode, _observed(response), trace=response.trace)

    def _ended(self, fact: facts.Ended) -> None:
        response, mode, trace = fact.response, fact.response.mode, fact.response.trace
        if fact.again:
            return
        if response.ending is Ending.TERMINAL:
            self._terminal(fact)
        if fact.late:
            self._inc(names.LATE, _status(response))
            return
        if response.ending is not Ending.TERMINAL:
            self._inc(names.GIVEN_UP, response.ending or OTHER, mode, trace=trace)
        self._observe(names.POLLS_PER_RESPONSE, response.counts.client_polls, mode, "client")
        self._observe(names.POLLS_PER_RESPONSE, response.counts.upstream_polls, mode, "gateway")

    def _terminal(self, fact: facts.Ended) -> None:
        response, mode, trace = fact.response, fact.response.mode, fact.response.trace
        status, model, usage = _status(response), _model(response), response.usage
        error_type = went_wrong(response)
        origin = _NONE if error_type is None else origin_of(code=response.error_code)
        self._inc(names.TERMINAL, status, mode, model, error_type or _NONE, origin, trace=trace)
        if usage is not None:
            for kind in ("input", "cached", "output", "reasoning"):
                self._inc(names.TOKENS, kind, model, by=getattr(usage, kind))
            if (price := self._price(response)) is not None:
                self._inc(names.COST, model, by=cost(usage, price))
        if response.completed_at is not None:
            behind = fact.at - response.completed_at
            self._observe(names.DETECTION, behind, "stream" if fact.source == "stream" else "poll", trace=trace)
            if behind < 0:
                self._inc(names.DETECTION_CLAMPED)
        if fact.late:
            return
        self._observe(names.DURATION, fact.at - response.created_at, mode, status, trace=trace)
        if response.pumped and response.first_output_at is not None and usage is not None and usage.output:
            took = fact.at - response.first_output_at
            self._observe(names.PER_TOKEN, took / usage.output, mode, trace=trace)

    def _became_stuck(self, fact: facts.BecameStuck) -> None:
        response = fact.response
        if response.stuck is not None:
            self._inc(names.BECAME_STUCK, response.stuck, _model(response), trace=response.trace)

    # Polls and streams

    def _upstream_polled(self, fact: facts.UpstreamPolled) -> None:
        self._inc(names.UPSTREAM_POLLS, fact.outcome)
        if fact.status:
            self._observe(names.POLL_SECONDS, fact.seconds)
        if fact.lag is not None:
            self._observe(names.POLL_LAG, fact.lag)

    def _appended(self, fact: facts.Appended) -> None:
        self._inc(names.APPENDED, by=fact.events)
        self._observe(names.APPEND_SECONDS, fact.seconds)
        self._observe(names.APPEND_BATCH, fact.events)

    def _attached(self, fact: facts.Attached) -> None:
        self._inc(names.ATTACHES, fact.kind, fact.form)
        if fact.kind == "resume":
            self._observe(names.BEHIND, fact.behind, trace=fact.response.trace)

    def _detached(self, fact: facts.Detached) -> None:
        self._inc(names.DELIVERED, by=fact.delivered)
        self._inc(names.REPLAYED, by=fact.replayed)
        if fact.how in names.LEFT:
            self._inc(names.DISCONNECTS, *names.LEFT[fact.how])

    # The edge, and the gateway itself

    def _request_served(self, fact: facts.RequestServed) -> None:
        self._inc(names.REQUESTS, fact.route, fact.method, _status_class(fact.status), fact.origin or _NONE)
        self._observe(names.HEADERS_SECONDS, fact.seconds, fact.route)
        if fact.streamed:
            self._observe(names.STREAM_SECONDS, fact.lifetime, fact.route)
        self._inc(names.HTTP_BYTES, "received", by=fact.received_bytes)
        self._inc(names.HTTP_BYTES, "sent", by=fact.sent_bytes)

    def _surveyed(self, fact: facts.Surveyed) -> None:
        self._show(names.LIVE, {(status or NO_STATUS, mode): held for (status, mode), held in fact.live.items()})
        self._show(names.OLDEST_CREATED, {(status or NO_STATUS,): at for status, at in fact.oldest_created.items()})
        self._show(names.OLDEST_PROGRESS, {(status or NO_STATUS,): at for status, at in fact.oldest_progress.items()})
        self._show(names.STUCK, {(reason, model or UNKNOWN): held for (reason, model), held in fact.stuck.items()})
        self._show(names.TOKENS_OUTSTANDING, {(): fact.outstanding})
        self._show(names.FOLLOWERS, {(): fact.followers})
        self._show(names.EXPIRY, {} if fact.expires_at is None else {(): fact.expires_at})

    def _store_measured(self, fact: facts.StoreMeasured) -> None:
        sizes = {
            names.STORE_BYTES: fact.bytes,
            names.STORE_FREE: fact.free_bytes,
            names.STORE_CAPACITY: fact.capacity_bytes,
        }
        for name, size in sizes.items():
            self._show(name, {} if size is None else {(): size})


def cost(usage: Usage, price: Price) -> float:
    """What the tokens cost, in the currency of the price."""
    fresh = max(0, usage.input - usage.cached)
    return (fresh * price.input + usage.cached * price.cached + usage.output * price.output) / _PRICED_TOKENS


def _status(response: Response) -> str:
    return response.status or NO_STATUS


def _model(response: Response) -> str:
    return response.model or UNKNOWN


def _observed(response: Response) -> facts.Observed:
    return "stream" if response.pumped else "poll"


def _status_class(status: int) -> str:
    return f"{status // 100}xx" if 100 <= status < 600 else OTHER
