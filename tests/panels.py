"""What an operator sees: every panel of the dashboards, asked of a Prometheus at one moment, as Grafana would."""

import asyncio
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from monitoring import Prometheus
from promql import written_out
from stories import fetch
from test_dashboards import LOADED, expressions, panels

from dashboards import background

Json = dict[str, Any]
ANYTHING = (0.0, math.inf)
"""A number that nobody but its panel knows."""
Known = float | tuple[float, float]
"""What a series has to show: a number, or the least and the most that it may be."""
Truth = Mapping[str, Mapping[str, Known]]
"""By title of a panel and name of a series. What is not named shows nothing, or 0."""


class Seen(NamedTuple):
    """What a series shows. `slack`: the share by which that may be too much, as it is of a counter."""

    value: float
    slack: float


@dataclass(frozen=True, slots=True)
class Question:
    """A query of a panel. `legend`: what its series are called; `column`: of a table that shows it."""

    panel: str
    expr: str
    legend: str
    column: str

    @property
    def grows(self) -> float | None:
        """How many seconds of growth it shows; 0: all that is shown; None: it shows something else."""
        if "histogram_quantile" in self.expr or not re.search(r"\b(rate|increase)\((?!process)", self.expr):
            return None
        if "increase(" in self.expr:
            return 0.0
        factor = re.match(r"(\d+) \* ", self.expr)
        return float(factor[1]) if factor else 1.0

    def named(self, labels: Mapping[str, str]) -> str:
        """A series as it is called in the panel."""
        if self.legend == "__auto":
            shown = [value for label, value in sorted(labels.items()) if label not in ("job", "python", "version")]
            return " ".join([*shown, self.column]).strip()
        return re.sub(r"\{\{(\w+)\}\}", lambda found: labels[found[1]], self.legend)


def questions() -> Iterator[Question]:
    """Every query of every panel."""
    for dashboard in LOADED.values():
        for panel in panels(dashboard):
            for target in panel["targets"]:
                if "expr" in target:
                    column = _columns(panel).get(f"Value #{target['refId']}", _columns(panel).get("Value", ""))
                    yield Question(panel["title"], target["expr"], target["legendFormat"], column)


def every_expression(interval: str, range_: str) -> dict[str, str]:
    """Every PromQL of the dashboards with its variables filled in: where it stands."""
    return {
        written_out(query, interval=interval, range_=range_): f"{name}: {where}"
        for name, dashboard in LOADED.items()
        for where, query in expressions(dashboard)
    }


async def slack_of(server: Prometheus, at: float, window_s: float, counter: str) -> float:
    """The share by which Prometheus overstates how much counters grew in these seconds, as it does by a known one.

    It goes on beyond the first and the last sample, by as much for every series of a process, or less for one that
    would have begun below 0. `counter` is one that had grown by as much before, on every gateway: the mean of what it
    is overstated by is that of all that grew as much on each as on the others, or more on those that live on.
    """
    window = f"{round(window_s * 1000)}ms"
    grew = f"(max_over_time({counter}[{window}]) - min_over_time({counter}[{window}]))"
    ((_, factor),) = await server.points(f"avg(increase({counter}[{window}]) / {grew})", at)
    return factor - 1


async def shown(server: Prometheus, at: float, window_s: float, slack: float) -> dict[str, dict[str, Seen]]:
    """What all panels show `at` (unix seconds) of the `window_s` before; of a counter, by how much it grew in them."""
    window = f"{round(window_s * 1000)}ms"
    asked = list(questions())
    answers = await asyncio.gather(
        *(server.points(written_out(one.expr, interval=window, range_=window), at) for one in asked)
    )
    found: dict[str, dict[str, Seen]] = {one.panel: {} for one in asked}
    for question, points in zip(asked, answers, strict=True):
        grows = question.grows
        for labels, value in points:
            grown = value * window_s / grows if grows else value
            if not math.isnan(value):
                found[question.panel][question.named(labels)] = Seen(grown, 0.0 if grows is None else slack)
    return found


def untrue(seen: Mapping[str, Mapping[str, Seen]], truth: Truth) -> list[str]:
    """What panels show that is not so, and what they do not show."""
    assert seen.keys() == truth.keys()
    wrong = []
    for panel, series in truth.items():
        for name, known in series.items():
            least, most = known if isinstance(known, tuple) else (known, known)
            value, slack = seen[panel].get(name, (math.nan, 0.0))
            if not least - 1e-6 <= value <= most * (1 + slack) + 1e-6:
                wrong.append(f"{panel}: {name} is {value:g}, not {known}")
        others = seen[panel].keys() - series.keys()
        wrong += [f"{panel}: there is no {name} ({seen[panel][name][0]:g})" for name in others if seen[panel][name][0]]
    return wrong


async def stuck_now(ops_url: str) -> list[Json]:
    """The rows of the table Stuck now, as the data source makes them of what the operators' API answers.

    It takes elements at the root selector, walks a column's selector into each, and reads seconds since 1970 as a time.
    """
    (panel,) = [one for one in LOADED["background"]["panels"] if one["title"] == background.STUCK_NOW]
    (target,) = panel["targets"]
    query = "&".join(f"{one['key']}={one['value']}" for one in target["url_options"]["params"])
    answer = (await fetch(f"{ops_url}{target['url']}?{query}")).json
    rows = []
    for element in answer[target["root_selector"]]:
        row = {}
        for column in target["columns"]:
            value = element
            for step in column["selector"].split("."):
                value = value[step]
            if column["type"] == "timestamp_epoch_s":
                assert isinstance(value, int | float)
                value = datetime.fromtimestamp(value, UTC)
            else:
                assert value is None or isinstance(value, str)
            row[column["text"]] = value
        rows.append(row)
    return rows


def _columns(panel: Json) -> dict[str, str]:
    """What the columns of a table are called."""
    (found,) = [
        one["options"]["renameByName"] for one in panel.get("transformations", ()) if "renameByName" in one["options"]
    ] or [{}]
    return found
