"""Dashboards over three gateways of one store: before, during and after a kill -9 every panel tells the truth.

The truth is what clients did and were told, what upstream was asked, and whom the test killed. Counters are looked at
over a time that begins after each gateway has been scraped once and has seen one of each: a counter's first step, where
its labels are not known in advance, is one that no Prometheus sees.
"""

import asyncio
import json
import math
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import redis_server
from monitoring import Prometheus, needs_prometheus, prometheus
from panels import ANYTHING, Known, Truth, questions, shown, slack_of, stuck_now, untrue
from processes import Process, eventually, serve
from promql import written_out
from running import PATIENCE_S, Upstream
from stories import MODEL, Event, Heard, ask, fetch, following, job

from gateway.telemetry.catalogue import METRICS
from gateway.telemetry.names import DURATION
from gateway.telemetry.receiver import Receiver

QUICK: dict[str, Any] = {"queue_s": 0.1, "duration_s": 0.5, "delta_count": 20}
MOVING: dict[str, Any] = {"queue_s": 0, "duration_s": 1200, "delta_count": 6000}
"""Five events a second, for longer than the test takes."""
PRO = "gpt-5.2-pro-2026-08-07"
"""What upstream calls the model of those that become stuck, and of those that are cancelled."""
COUNTER = f'responses_gateway_tokens_total{{kind="output", model="{MODEL}"}}'
"""One that grows by as much in each round on each gateway."""
LEASE_S = 10
A_WHILE = (1e-6, 60.0)
"""Seconds that are not known any better: nothing here takes a minute."""
LOAD = {"ResponsesGatewayEventLoopLag", "ResponsesGatewayPollsLate"}
"""Alerts that may fire where the machine has other things to do."""


def address(process: Process) -> str:
    return urlsplit(process.ops_url).netloc


@dataclass
class Held:
    """A response that runs for the whole test, and the reader that the test holds open. Times are unix seconds."""

    at: Process
    asked_at: float
    stream: Any
    first: Event
    known_at: float = field(default_factory=time.time)

    @property
    def id(self) -> str:
        return str(self.first["response"]["id"])


@dataclass
class Clients:
    """They do the same at each gateway, and keep account of what they did and what they were told."""

    did: Counter[str] = field(default_factory=Counter)

    async def send(self, process: Process, method: str, path: str, body: object = b"", **headers: str) -> Heard:
        """One request."""
        sent = body if isinstance(body, bytes) else json.dumps(body).encode()
        heard = await fetch(f"{process.url}/v1{path}", method, body=sent, headers=headers)
        self.did[f"{heard.status // 100}xx"] += 1
        self.did["received"] += len(sent)
        self.did["sent"] += len(heard.body)
        self.did["tokens shown"] += "x-gateway-continuation-token" in heard.headers
        if "x-gateway-served" in heard.headers and method == "GET":
            self.did[f"polls answered by {heard.headers['x-gateway-served']}"] += 1
        return heard

    async def all_kinds(self, here: Process, there: Process) -> None:
        """Responses that end in each way, creates that do not come to be, readers and polls at another gateway."""
        read = (await self.send(here, "POST", "/responses", job(**QUICK))).events
        self._told_end(read[-1]["response"])
        path = f"/responses/{read[0]['response']['id']}"
        rest = (await self.send(there, "GET", f"{path}?stream=true&starting_after=4")).events
        self.did["delivered"] += len(read) + len(rest)
        self.did["replayed"] += len(rest)
        for _ in range(2):
            await self.send(there, "GET", path)

        background = {**ask(**QUICK), "background": True}
        twice = [await self.send(here, "POST", "/responses", background, **{"Idempotency-Key": path}) for _ in range(2)]
        assert twice[0].json["id"] == twice[1].json["id"]
        failing = await self.send(here, "POST", "/responses", {**ask("fails", **QUICK), "background": True})
        slow = await self.send(here, "POST", "/responses", {**ask("slow"), "model": "gpt-5.2-pro", "background": True})
        self._told_end((await self.send(here, "POST", f"/responses/{slow.json['id']}/cancel")).json)
        await _ended(here, twice[0].json["id"], failing.json["id"])
        self._told_end((await self.send(here, "GET", f"/responses/{twice[0].json['id']}")).json)

        for body in (ask("rejected"), ask("rejected", status=500), b"not JSON"):
            await self.send(here, "POST", "/responses", body)
        await self.send(here, "GET", "/models")

    async def hold(self, here: Process) -> list[Held]:
        """One that moves and one that becomes stuck, each with a reader; the first is polled, too."""
        held = []
        for body in (job("long", **MOVING), {**job("stuck"), "model": "gpt-5.2-pro"}):
            asked_at = time.time()
            stream = await here.client().responses.create(**body)
            (first,) = await following(stream, 1)
            held.append(Held(here, asked_at, stream, first))
        polled = [await self.send(here, "GET", f"/responses/{held[0].id}") for _ in range(2)]
        self.did["changed"] += len({one.json["status"] for one in polled})
        self.did["polled"] += len(polled)
        return held

    def _told_end(self, response: Event) -> None:
        usage = response["usage"] or {"input_tokens": 0, "output_tokens": 0, "output_tokens_details": {}}
        self.did[response["status"]] += 1
        self.did["input"] += usage["input_tokens"]
        self.did["output"] += usage["output_tokens"]
        self.did["reasoning"] += usage["output_tokens_details"].get("reasoning_tokens", 0)


async def _ended(process: Process, *response_ids: str) -> None:
    """Wait for them as an operator does: a client would poll."""
    for response_id in response_ids:
        story = f"{process.ops_url}/responses/{response_id}"
        await eventually(lambda story=story: fetch(story), lambda answer: not answer.json["live"])


@dataclass
class Moment:
    """Who lives, what they hold, and what has happened since they were all scraped for the first time."""

    living: Sequence[Process]
    all: Sequence[Process]
    held: Sequence[Held]
    readers: int
    did: Counter[str]
    polls: int
    spans: int
    down: int = 0
    processes: Known = 3
    taken_up: int = 0
    came_back: int = 0
    redeemed: int = 0

    def truth(self, at: float, window_s: float, slack: float) -> Truth:
        """What every panel has to show."""
        did, rounds, readers = self.did, len(self.all), self.readers
        moving, stuck = self.held[::2], self.held[1::2]
        cost = (did["input"] + 10 * did["output"]) / 1e6
        fetched = did["completed"] + did["cancelled"]

        def uneven(grown: float) -> tuple[float, float]:
            """What is not as much at one gateway as at another: it may all be as overstated as that of one."""
            return grown, grown * (1 + rounds * slack) / (1 + slack)

        def oldest(held: Sequence[Held]) -> tuple[float, float]:
            return at - min(one.known_at for one in held), at - min(one.asked_at for one in held)

        everywhere, here = [address(one) for one in self.all], [address(one) for one in self.living]
        lifetimes = next(metric.buckets for metric in METRICS if metric.name == DURATION)
        routes = ("/responses", "/responses/{id}", "/responses/{id}/cancel", "other")
        emitted = 3 * (5 * window_s + 20)
        return {
            # Overview
            "Now": {
                "Gateways down": self.down,
                "Alerts firing": (sum(one.at in self.living for one in stuck) + self.down, math.inf),
                "Stuck": len(stuck),
                "Live": len(self.held),
                "Upstream": 1,
            },
            "Service levels, last day": dict.fromkeys(("Requests", "Tracked", "Ends seen", "Resumes"), 1),
            "Error budget burn": dict.fromkeys(("Requests", "Tracked", "Ends seen", "Resumes"), 0),
            "Requests, by status": {of: did[of] for of in ("2xx", "4xx", "5xx")},
            "Errors, by who is to blame": {"client": did["4xx"], "upstream": did["5xx"]},
            "Time until headers, 95th percentile": dict.fromkeys(routes, A_WHILE),
            "Responses created, by model": {MODEL: 4 * rounds, PRO: 2 * rounds},
            "Creates that were refused, joined or not tracked": {
                "refused 4xx": rounds,
                "refused 5xx": rounds,
                "joined: idempotency_key": rounds,
            },
            "How responses end": {
                "completed": did["completed"],
                "cancelled": did["cancelled"],
                "failed": rounds,
                "incomplete": 0,
            },
            "Create to final status": _spread(A_WHILE, "background ", "background_stream "),
            "Time per output token": _spread(A_WHILE, "background_stream "),
            "Why responses failed": {f"server_error {MODEL} upstream Responses": rounds},
            "Tokens": {"cached": 0, **{kind: did[kind] for kind in ("input", "output", "reasoning")}},
            "Cost per hour, by model": {MODEL: cost},
            "By model, in the shown time": {
                f"{MODEL} Responses": did["completed"] + rounds,
                f"{PRO} Responses": did["cancelled"],
                f"{MODEL} Failed": (1 / 3 / (1 + slack), 1 / 3),
                f"{PRO} Failed": 0,
                f"{MODEL} Tokens": did["input"] + did["output"],
                f"{MODEL} Cost": cost,
            },
            # Background responses
            "At a glance": {
                "Stuck": len(stuck),
                "Oldest live": oldest(self.held),
                "Polls saved": (0, 1),
                "Ended, not fetched": (rounds - fetched * slack, rounds + (fetched + rounds) * slack),
                "Tokens out": len(moving) - self.redeemed,
            },
            "Stuck, by reason and model": {f"queued {PRO}": len(stuck)},
            "Age of the oldest, and of the last progress": {
                "oldest in_progress": oldest(moving),
                "oldest queued": oldest(stuck),
                "stillest in_progress": (0, oldest(moving)[1]),
                "stillest queued": (0, oldest(stuck)[1]),
            },
            "Became stuck, recovered, given up": {"stuck: queued": rounds, "cancels 2xx": did["cancelled"]},
            "Live, by status and mode": {
                "in_progress background_stream": len(moving),
                "queued background_stream": len(stuck),
            },
            "Time in the queue": {
                **_spread(A_WHILE, "poll ", "stream "),
                f"{MODEL} 95 %": A_WHILE,
                f"{PRO} 95 %": A_WHILE,
            },
            "Time to the first output": _spread(A_WHILE, "poll ", "stream "),
            "How long they live": {
                **{str(float(bound)): (0, fetched + rounds) for bound in lifetimes},
                "+Inf": fetched + rounds,
            },
            "Ended upstream, known here": {"by poll": A_WHILE, "by stream": A_WHILE},
            "Ended, and fetched by a client": {"by poll": A_WHILE, "by stream": A_WHILE},
            "Polls of clients, by what they found": {
                "terminal": 3 * rounds,
                "changed": uneven(did["changed"]),
                "unchanged": uneven(did["polled"] - did["changed"]),
            },
            "Who answered them, and what upstream got": {
                "answered by store": did["polls answered by store"],
                "answered by shared": did["polls answered by shared"],
                "upstream got": uneven(self.polls),
            },
            "Polls saved, polls needless": {"saved": (0, 1), "needless": (0, 1)},
            "Polls per response": _spread((0, 60), "client ", "gateway "),
            "Lines lost": {},
            "Came, and came back": {
                "first, none": 3 * rounds,
                "resume, starting_after": rounds + self.came_back,
            },
            "Events to catch up with at a resume": _spread((1e-6, 1000)),
            "Continuation tokens": {
                "issued": did["tokens shown"],
                "redeemed: poll, none": rounds,
                **({"redeemed: resume, starting_after": self.redeemed} if self.redeemed else {}),
            },
            # Gateway runtime
            "Gateways": {
                **dict.fromkeys(here, 1),
                **{f"{one} Runs since": (1000 * (at - 600), 1000 * at) for one in here},
                **{f"{one} Memory": (1e6, 1e9) for one in here},
                **{f"{one} Descriptors": (1e-6, 1) for one in here},
            },
            "Processor time": dict.fromkeys(everywhere, ANYTHING),
            "Memory": dict.fromkeys(here, (1e6, 1e9)),
            "Event-loop lag": _spread(A_WHILE, *(f"{one} " for one in everywhere), high="99 %"),
            "Held open": {"requests": readers, "readers": readers, "file descriptors": (readers, math.inf)},
            "Bytes of requests and answers": {"received": did["received"], "sent": uneven(did["sent"])},
            "How long streams last": _spread(A_WHILE, "/responses ", "/responses/{id} "),
            "Events": {
                "written": (did["delivered"] - did["replayed"], did["delivered"] + emitted),
                "delivered": did["delivered"],
                "of those replayed": (did["replayed"], did["delivered"]),
            },
            "Time of an event through the gateway": _spread(A_WHILE, "written, ", "delivered, ", high="99 %"),
            "Events per write": _spread((1e-6, 1000)),
            "Room for the store": {f"{one} taken": (1000, 1e10) for one in here},
            "What the store could not do": {},
            "Taken up, and deleted": {"taken up: pumped": self.taken_up} if self.taken_up else {},
            "Processes on one store, and what none holds": {"processes": self.processes, "held by none": 0},
            "Polls of upstream, by outcome": {
                **dict.fromkeys(("terminal", "changed", "unchanged"), (0, self.polls)),
                "error": 0,
                "upstream answers": 1,
            },
            "Polls of upstream: time, and lateness": {"time": A_WHILE, "lateness": A_WHILE},
            "Upstream's streams that broke off": {"re-attach: resumed": self.taken_up} if self.taken_up else {},
            "What cannot be": {},
            # A generation of each that has ended; the first of them are on their way when it begins.
            "Spans": {"taken": (fetched + rounds, self.spans)},
            "Spans that wait; telemetry switched off": {"due": 0},
        }


def _spread(known: Known, *names: str, high: str = "95 %") -> dict[str, Known]:
    return {f"{name}{share}": known for name in names or ("",) for share in ("median", high)}


async def scraped(server: Prometheus) -> None:
    """Wait until every gateway was scraped from now on."""
    await server.shows(f"count(timestamp(process_start_time_seconds) > {time.time()})", 3)


async def listed(gateway: Process) -> set[str]:
    """The responses in the table Stuck now."""
    return {row["Response"] for row in await stuck_now(gateway.ops_url)}


@dataclass
class Scene:
    """Three gateways, their Prometheus, and the beginning of what is looked at (unix seconds)."""

    server: Prometheus
    began: float
    upstream: Upstream
    collector: Receiver
    polls_before: int = 0

    def __post_init__(self) -> None:
        self.polls_before = self.polls

    @property
    def polls(self) -> int:
        """How many upstream has got since."""
        seen = self.upstream.simulator.requests
        asked = sum(one.method == "GET" and "/responses/" in one.path and "stream=" not in one.path for one in seen)
        return asked - self.polls_before

    async def tells_the_truth(self, living: Sequence[Process], stuck: set[str], **so: Any) -> None:
        """Every panel does, as soon as all that has happened was scraped; so does the table of each gateway."""
        wrong: list[str] = []
        try:
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    at = time.time() - 1  # what was scraped until then is there
                    window_s, spans = at - self.began, len(self.collector.spans)
                    moment = Moment(living, polls=self.polls, spans=spans, **so)
                    slack = await slack_of(self.server, at, window_s, COUNTER)
                    seen = await shown(self.server, at, window_s, slack)
                    if not (wrong := untrue(seen, moment.truth(at, window_s, slack))):
                        break
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise AssertionError("\n".join(wrong)) from None
        for gateway in living:
            await eventually(lambda gateway=gateway: listed(gateway), lambda shown: shown == stuck)

    async def told_of(self, *alerts: str) -> None:
        """These alerts fire, and no others."""

        async def firing() -> set[str]:
            found = await self.server.query('ALERTS{alertstate="firing", severity!="none"}')
            return {one["metric"]["alertname"] for one in found} - LOAD

        await eventually(firing, lambda told: told == set(alerts))


@needs_prometheus
async def test_every_panel_tells_the_truth_over_three_replicas_before_during_and_after_a_kill(
    parts: AsyncExitStack, simulate: Any, tmp_path: Path
) -> None:
    upstream, store, collector = await simulate(speed=1.0), redis_server.url_for(tmp_path), Receiver()
    parts.push_async_callback(collector.close)
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": await collector.start(), "OTEL_BSP_SCHEDULE_DELAY": "100"}
    settings = {"upstream_api_key": "sk-gateway", "lease_s": LEASE_S, "prices": "*=1/0.1/10"}
    settings |= {"patience_by_model": "*-pro*=3", "linger_s": 3}

    async def start(port: int = 0, ops_port: int = 0) -> Process:
        process = await serve(
            upstream.url, store, port=port, ops_listen=f"127.0.0.1:{ops_port}", environ=environ, **settings
        )
        parts.push_async_callback(process.close)
        return process

    replicas = await asyncio.gather(*(start() for _ in range(3)))
    server = await prometheus(parts, tmp_path, [address(one) for one in replicas])
    neighbours = list(zip(replicas, [*replicas[1:], replicas[0]], strict=True))
    await asyncio.gather(*(Clients().all_kinds(*both) for both in neighbours))
    await scraped(server)
    scene, clients = Scene(server, time.time(), upstream, collector), Clients()
    await scraped(server)

    held = [one for gateway in replicas for one in await clients.hold(gateway)]
    await asyncio.gather(*(clients.all_kinds(*both) for both in neighbours))
    so: dict[str, Any] = {"stuck": {one.id for one in held[1::2]}, "all": replicas, "did": clients.did}
    await written(held[0], replicas[1])
    await scene.tells_the_truth(replicas, held=held, readers=6, **so)
    await scene.told_of("ResponsesGatewayResponsesStuck")
    await only_the_chosen_model_is_shown(server)

    dead, *living = replicas
    lost, kept = held[:2], held[2:]
    settled = time.time()
    await dead.kill()
    await scene.tells_the_truth(living, held=kept, readers=4, down=1, processes=(2, 3), **so)
    await scene.told_of("ResponsesGatewayDown", "ResponsesGatewayResponsesStuck")

    again = [await comes_back(one, living[0]) for one in lost]
    so |= {"held": held, "readers": 6, "processes": 2, "taken_up": 2, "came_back": 2, "redeemed": 1}
    await scene.tells_the_truth(living, down=1, **so)
    await following(again[0], 10)

    back = await start(dead.port, int(dead.ops_url.rpartition(":")[2]))
    so |= {"processes": 3}
    await scene.tells_the_truth([back, *living], **so)
    await scene.told_of("ResponsesGatewayResponsesStuck")
    await never_shown_twice(server, time.time() - settled)


async def written(held: Held, elsewhere: Process) -> None:
    """Wait until the store has what its clients were shown."""
    story = f"{elsewhere.ops_url}/responses/{held.id}"
    await eventually(lambda: fetch(story), lambda answer: answer.json["client_polls"] == 2)


async def comes_back(held: Held, elsewhere: Process) -> Any:
    """Its reader, whose line broke, resumes at another gateway."""
    await held.stream.close()
    number = held.first["sequence_number"]
    return await elsewhere.client().responses.retrieve(held.id, stream=True, starting_after=number)


async def only_the_chosen_model_is_shown(server: Prometheus) -> None:
    """Where the dashboard's variable names one."""
    (expr,) = {one.expr for one in questions() if one.legend == "Stuck"}
    for model, stuck in ((MODEL, 0), (PRO, 3), (f"{MODEL}|{PRO}", 3)):
        await server.shows(written_out(expr, model=model), stuck)


async def never_shown_twice(server: Prometheus, seconds: float) -> None:
    """At no time was there more of anything than there is, whoever had it in hand."""
    most = {"Live": 6, "Stuck": 3, "Tokens out": 3, "readers": 6, "processes": 3}
    for question in questions():
        if question.legend in most:
            over_time = f"max_over_time(({written_out(question.expr)})[{int(seconds)}s:500ms])"
            ((_, value),) = await server.points(over_time, time.time())
            assert value <= most[question.legend], question
