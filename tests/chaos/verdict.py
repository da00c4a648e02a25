"""What has to be true in the end, and the figures."""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

from stories import all_of, numbers

from chaos.fleet import KEY, total
from chaos.readers import Told
from chaos.scene import Scene
from gateway.telemetry import names
from gateway.telemetry.receiver import Received

SETTLED_S = 60.0
_AT_ONCE = 10


@dataclass(slots=True)
class Figures:
    """What was counted. All of `wrong` has to be zero; `waits` are to be no longer than a lease and two seconds."""

    blows: Counter[str]
    responses: int
    events: int
    wrong: Counter[str]
    waits: Sequence[float]
    lease_s: float
    errors: Counter[str]
    repeated_spans: int = 0

    def shown(self) -> str:
        """As lines of text."""
        blows = ", ".join(f"{count} x {what}" for what, count in self.blows.items())
        seen = ", ".join(f"{count} x {what}" for what, count in self.errors.most_common()) or "none"
        wrong = ", ".join(f"{what} {count}" for what, count in self.wrong.items())
        lines = [
            f"{blows}: {self.responses} responses, {self.events} events read; {wrong}",
            f"clients saw: {seen}; generation spans sent again: {self.repeated_spans}",
        ]
        if self.waits:
            waited = f"{median(self.waits):.2f} s in the median, {max(self.waits):.2f} s at most"
            lines.append(f"{len(self.waits)} readers elsewhere waited {waited}, with a lease of {self.lease_s:g} s")
        return "\n".join(lines)


async def verdict(scene: Scene) -> Figures:
    """Compare what clients, collector, log lines and metrics tell with upstream's own replay."""
    told = scene.clients.told
    wrong = Counter(dict.fromkeys(("lost", "doubled", "out of order", "not replayed"), 0))
    await _settled(scene)
    for start in range(0, len(told), _AT_ONCE):
        await asyncio.gather(*(_read_right(scene, one, wrong) for one in told[start : start + _AT_ONCE]))
    spans = _generations(scene)
    for one in told:
        generations = spans[one.response_id]
        wrong["generation spans missing"] += not generations
        wrong["generation spans that differ"] += len(set(map(_said, generations))) > 1
    ended = Counter(
        line["key"] for replica in scene.fleet.replicas for line in replica.lines if line["event"] == "response_ended"
    )
    wrong["terminals told twice"] = sum(count > 1 for count in ended.values())
    wrong["terminals counted too often"] = max(
        0, await total(scene.fleet.replicas, names.TERMINAL) - scene.upstream.asked("POST", "/responses")
    )
    wrong["clean ends"] = scene.clients.errors["clean end without a terminal event"]
    return Figures(
        scene.blows,
        len(told),
        sum(len(reader.numbers) for one in told for reader in one.readers),
        wrong,
        scene.waits,
        scene.lease_s,
        scene.clients.errors,
        sum(len(generations) - 1 for generations in spans.values()),
    )


async def _read_right(scene: Scene, told: Told, wrong: Counter[str]) -> None:
    truth = await scene.upstream.numbers_of(told.response_id, key=KEY)
    for reader in told.readers:
        wrong["lost"] += len(set(truth) - set(reader.numbers))
        wrong["doubled"] += len(reader.numbers) - len(set(reader.numbers))
        wrong["out of order"] += reader.numbers != sorted(reader.numbers)
    stream = await scene.clients.at(scene.fleet.any().url).responses.retrieve(told.response_id, stream=True)
    wrong["not replayed"] += numbers(await all_of(stream)) != truth


async def _settled(scene: Scene) -> None:
    """Nothing lives any more, and all that was owed to the collector is sent."""
    until = time.monotonic() + SETTLED_S
    wanted = (names.LIVE, names.UNHELD, names.SPANS_DUE)
    while any([await total(scene.fleet.replicas, name) for name in wanted]):
        assert time.monotonic() < until, {name: await total(scene.fleet.replicas, name) for name in wanted}
        await asyncio.sleep(0.2)


def _generations(scene: Scene) -> dict[str, list[Received]]:
    """By the response's id."""
    found: dict[str, list[Received]] = defaultdict(list)
    for span in scene.collector.spans:
        if span.name.startswith("chat") and names.GENAI_RESPONSE_ID in span.attributes:
            found[span.attributes[names.GENAI_RESPONSE_ID]].append(span)
    return found


def _said(span: Received) -> str:
    """All of it but who sent it."""
    return repr(replace(span, resource={}, attributes=dict(sorted(span.attributes.items()))))
