"""The composition root: every part of a gateway made and joined, started and stopped in order.

Starting: store, upstream, tracker (which takes up what had not ended), then the listeners. Stopping is the reverse,
after the drain: readiness turns red, the process serves on for `drain_delay_s`; then new work is refused, and what is
in flight gets `drain_s`: also readers of background responses, where other processes go on with these; else they are
cut.
"""

import asyncio
import gc
import resource
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from importlib.metadata import version

from yarl import URL

from gateway.config import Settings
from gateway.domain.facts import Fact
from gateway.edge import creating, responses, tickets
from gateway.edge.context import Context, Handler, Readiness
from gateway.edge.ops import ops_app
from gateway.edge.server import Listener, client_app, listen
from gateway.relay.outbox import Outbox
from gateway.relay.routing import Kind, Route
from gateway.relay.tracker import Tracker
from gateway.relay.upstream import Timeouts, Upstream
from gateway.store.open import open_store
from gateway.telemetry import names
from gateway.telemetry.genai_metrics import GenAiMetrics
from gateway.telemetry.logs import Logs
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.observers import Observer, Owing, Telemetry
from gateway.telemetry.tracing import Tracing

VERSION = version("responses-gateway")
# Each step of the store's writer thread takes the GIL anew: under a busy loop it would wait for 5 ms each time.
_SWITCH_INTERVAL_S = 0.0005
_YOUNG_OBJECTS, _YOUNG_COLLECTIONS = 1000, 50
_TELEMETRY_S = 5.0
_AZURE = ".azure.com"

HANDLERS: Mapping[tuple[Kind, str | None], Handler] = {
    (Kind.CREATE, "POST"): creating.create,
    (Kind.RESPONSE, "GET"): responses.retrieve,
    (Kind.RESPONSE, "DELETE"): responses.delete,
    (Kind.CANCEL, "POST"): responses.cancel,
    **{(kind, None): responses.refer for kind in (Kind.RESPONSE, Kind.CANCEL, Kind.INPUT_ITEMS, Kind.REFERRING)},
    (Kind.TICKET, None): tickets.issue,
}
"""Who answers what, by method and, with None, by any other; everything that is not here passes through."""


class Gateway:
    """One gateway. `environ` holds the OTEL_* variables, `observer` is told every fact, `worker` is its number.

    `start` raises `store.port.Unusable` for a store that cannot be opened and OSError for an address in use.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        environ: Mapping[str, str] | None = None,
        logs: Logs | None = None,
        observer: Callable[[Fact], None] | None = None,
        clock: Callable[[], float] = time.time,
        worker: int | None = None,
    ) -> None:
        self.settings = settings
        self._worker = worker
        self.metrics = Metrics(settings.max_models, settings.prices, version=VERSION)
        self.tracing = Tracing(
            environ or {},
            version=VERSION,
            upstream=settings.upstream,
            trust=settings.trust_traceparent,
            believed_per_s=settings.trust_sampled_per_s,
            on_exported=self.metrics.spans_exported,
            on_dropped=self.metrics.spans_dropped,
        )
        self.store = open_store(settings, clock)
        self.outbox = Outbox(self.store, self.tracing, lambda told: self.telemetry.emit(told), clock)
        self.metrics.read(names.SPANS_DUE, lambda: self.outbox.owed)
        observers: list[Callable[[Fact], None]] = [self.metrics.observe, self.tracing.observe, self.outbox.observe]
        if settings.genai_metrics != "off":
            genai = GenAiMetrics(
                self.metrics.registry, settings.genai_metrics, settings.max_models, upstream=settings.upstream
            )
            observers.append(genai.observe)
        observers += [logs.observe] if logs is not None else []
        observers += [observer] if observer is not None else []
        self.telemetry = Telemetry(observers, self._observer_removed, due=self.tracing.due)
        route = Route("default", URL(settings.upstream, encoded=True), _credential(settings))
        timeouts = Timeouts(settings.upstream_connect_s, settings.upstream_headers_s, settings.upstream_idle_s)
        upstream = Upstream(timeouts, header_limit=settings.header_limit_bytes)
        tracker = Tracker(settings, route, upstream, self.store, self.telemetry, clock)
        self.context = Context(
            settings,
            route,
            upstream,
            self.store,
            tracker,
            self.telemetry,
            self.tracing,
            self.outbox,
            clock,
            Readiness(),
        )
        self.metrics.read(names.IN_FLIGHT, lambda: self.context.in_flight.count)
        self.metrics.read(names.UNHELD, lambda: tracker.leases.orphans)
        self.metrics.read(names.PROCESSES, lambda: tracker.leases.processes)
        self.metrics.read(names.UPSTREAM_REACHABLE, lambda: upstream.reachable)
        self._logs = logs
        self._parts = AsyncExitStack()
        self._clients: Listener | None = None
        self._operators: Listener | None = None

    async def start(self) -> None:
        """Start everything; when this returns, clients are served."""
        context, settings = self.context, self.settings
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        async with AsyncExitStack() as parts:
            await self.tracing.open()
            parts.push_async_callback(self.tracing.close, _TELEMETRY_S)
            await self.store.open()
            parts.push_async_callback(self.store.close)
            parts.push_async_callback(self._told)
            await context.upstream.open()
            parts.push_async_callback(context.upstream.close)
            parts.push_async_callback(context.tracker.stop)
            operators = await listen(
                ops_app(context, self.metrics, self._worker),
                settings.ops_listen,
                header_limit=settings.header_limit_bytes,
            )
            parts.push_async_callback(operators.close)
            await context.tracker.recover()
            context.tracker.start()
            context.tracker.spawn(self.outbox.run(), "outbox")
            clients = await listen(
                client_app(context, HANDLERS),
                settings.listen,
                header_limit=settings.header_limit_bytes,
                shared=settings.workers > 1,
            )
            self._clients, self._operators = clients, operators
            context.readiness.started = True
            self._parts = parts.pop_all()

    async def stop(self, *, delayed: bool = True) -> None:
        """Drain and stop. Responses that run upstream stay in the store, for the next start to take up.

        `delayed=False` leaves `drain_delay_s` out: nobody has to be told first. Cancelled, it stops at once.
        """
        context, settings = self.context, self.settings
        context.readiness.draining = True
        try:
            if delayed:
                await asyncio.sleep(settings.drain_delay_s)
            context.readiness.refusing = True
            if not await context.tracker.leases.hand_over():
                context.tracker.cut_background_readers()
            if self._clients is not None:
                await self._clients.close(grace_s=settings.drain_s)
        finally:
            if self._clients is not None:
                await self._clients.close()
            await self._parts.aclose()

    async def _told(self) -> None:
        """Nothing happens any more: what telemetry has still to tell gets its time, both ways at once."""
        await asyncio.gather(self.outbox.close(_TELEMETRY_S), self.tracing.flush(_TELEMETRY_S))

    def _observer_removed(self, observer: Observer | Owing, error: Exception) -> None:
        self.metrics.observer_removed(observer, error)
        if self._logs is not None and observer != self._logs.observe:
            self._logs.observer_removed(observer, error)

    @property
    def url(self) -> str:
        """Where clients find it: scheme, host and port."""
        return _url(self.settings.listen.host, self._clients)

    @property
    def ops_url(self) -> str:
        """Where operators find it."""
        return _url(self.settings.ops_listen.host, self._operators)


def raise_open_files(wanted: int) -> int:
    """Raise this process's limit of open files towards `wanted`; the limit that now holds."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < target:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
        return target
    return soft


def settle_memory() -> None:
    """For a process that serves from now on.

    What is there stays: a collection that looks at it again would hold the event loop up for tens of ms. And of what
    requests make hardly anything is garbage that only a collection finds: few objects are looked at at a time, and
    those that stay are seldom looked at again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, _YOUNG_COLLECTIONS)


def _credential(settings: Settings) -> list[tuple[str, str]] | None:
    if settings.upstream_api_key is None:
        return None
    key = settings.upstream_api_key.get_secret_value()
    if (URL(settings.upstream).host or "").endswith(_AZURE):
        return [("api-key", key)]
    return [("Authorization", f"Bearer {key}")]


def _url(host: str, listener: Listener | None) -> str:
    port = listener.port if listener is not None else 0
    shown = host or "127.0.0.1"
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"
