"""The operators' side, on its own listener: is it alive, is it ready, how is it, what is it doing.

Rule: nothing here waits for upstream or a client but a cancel, and a scrape does no I/O. Readiness says whether this
process takes traffic; what it shares with others (store, upstream, collector) is in `/statusz`.
Called by `app`. Parts: `ops_guard` (who may ask), `ops_responses` (the API of responses), `ops_story` (one as JSON).
"""

import asyncio
import os
from collections import Counter
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

from aiohttp import hdrs, web

from gateway.domain.errors import StoreUnavailable
from gateway.edge import ops_responses
from gateway.edge.context import Context
from gateway.edge.ops_guard import guard
from gateway.edge.ops_responses import CONTEXT, MAX_TAILS, TAILS
from gateway.edge.passthrough import settle_headers
from gateway.telemetry import names
from gateway.telemetry.metrics import Metrics

_METRICS = web.AppKey("metrics", Metrics)
_STARTED_AT = web.AppKey("started_at", float)
_WORKER: web.AppKey[int | None] = web.AppKey("worker")
# The page is for finding out what is wrong: a store that hangs must not hang it too.
_STORE_S = 2.0


def ops_app(context: Context, metrics: Metrics, worker: int | None = None) -> web.Application:
    """What operators are served. `worker`: which of several processes on this machine it is."""
    app = web.Application(middlewares=[guard(context.settings)])
    app[CONTEXT], app[_METRICS], app[_STARTED_AT] = context, metrics, context.clock()
    app[_WORKER] = worker
    app[TAILS] = asyncio.Semaphore(MAX_TAILS)
    app.on_response_prepare.append(_signed)
    app.on_response_prepare.append(settle_headers)
    app.add_routes(
        [
            web.get("/healthz", healthz),
            web.get("/readyz", readyz),
            web.get("/statusz", statusz),
            web.get("/metrics", scrape),
            web.post("/purge", purge),
            *ops_responses.ROUTES,
        ]
    )
    return app


async def healthz(request: web.Request) -> web.StreamResponse:
    """GET /healthz: the process lives."""
    return web.json_response({"status": "alive"})


async def readyz(request: web.Request) -> web.StreamResponse:
    """GET /readyz: 200 where this process takes new work, else 503."""
    state = _state(request.app[CONTEXT])
    return web.json_response({"status": state}, status=200 if state == "ready" else 503)


async def statusz(request: web.Request) -> web.StreamResponse:
    """GET /statusz: the process, what it depends on, what it holds, and its settings without their secrets."""
    context = request.app[CONTEXT]
    now = context.clock()
    return web.json_response(
        {
            "version": version("responses-gateway"),
            "status": _state(context),
            "pid": os.getpid(),
            "worker": request.app[_WORKER],
            "started_at": request.app[_STARTED_AT],
            "uptime_s": round(now - request.app[_STARTED_AT], 3),
            "store": await _store(context),
            "upstream": _upstream(context),
            "exporter": _exporter(context),
            "live": _live(context),
            "followers": context.tracker.followers,
            "tasks": context.tracker.tasks,
            "settings": context.settings.public(),
        }
    )


async def scrape(request: web.Request) -> web.StreamResponse:
    """GET /metrics: for Prometheus, in the format that its `Accept` asks for."""
    accept = request.headers.get("Accept", "")
    content_type, body = await asyncio.to_thread(request.app[_METRICS].render, accept)
    return web.Response(body=body, headers={"Content-Type": content_type})


async def purge(request: web.Request) -> web.StreamResponse:
    """POST /purge: delete what is past its retention, now."""
    return web.json_response({"object": "purge", "records": await request.app[CONTEXT].tracker.purge()})


async def _signed(request: web.Request, response: web.StreamResponse) -> None:
    """So that a command can tell that it is a gateway which answers."""
    response.headers[hdrs.SERVER] = names.SERVICE


def _state(context: Context) -> str:
    readiness = context.readiness
    return "draining" if readiness.draining else "ready" if readiness.started else "starting"


async def _store(context: Context) -> dict[str, Any]:
    """`reachable`: it can be read. What cannot be done is `problem`."""
    size: int | None = None
    problem: str | None = None
    try:
        async with asyncio.timeout(_STORE_S):
            size = (await context.store.space()).bytes
            await context.store.probe()
    except StoreUnavailable as error:
        problem = error.message
    except TimeoutError:
        problem = f"The store did not answer within {_STORE_S:g} s."
    return {
        "kind": context.settings.store.kind,
        "url": context.settings.store.shown,
        "durability": context.store.durability,
        "reachable": size is not None,
        "writable": problem is None,
        "bytes": size,
        "problem": problem,
    }


def _upstream(context: Context) -> dict[str, Any]:
    """`reachable` is what the last request found, null before the first one."""
    base = context.route.base
    return {
        "base_url": str(base.with_query(None)),
        "reachable": context.upstream.reachable,
        "unreachable_responses": sum(not live.reachable for live in context.tracker.live.values()),
    }


def _exporter(context: Context) -> dict[str, Any]:
    endpoint = urlsplit(context.tracing.endpoint or "")
    return {
        "configured": context.tracing.exporting,
        "endpoint": f"{endpoint.scheme}://{endpoint.netloc.rpartition('@')[2]}" if endpoint.netloc else None,
        "failing": context.tracing.failing,
    }


def _live(context: Context) -> dict[str, Any]:
    held = context.tracker.live.values()
    return {
        "responses": len(held),
        "by_status": Counter(str(live.response.status or "none") for live in held),
        "by_mode": Counter(str(live.response.mode) for live in held),
        "pumped": sum(live.response.pumped for live in held),
        "stuck": sum(live.response.stuck is not None for live in held),
        "waiting_for_owner": sum(live.waits_for_owner for live in held),
    }
