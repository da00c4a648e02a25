"""Samples become rows, rows become the table; and the judgement when a row says nothing.

A row of rates is void where the proxy under test was not what limited it: it neither ran nor wanted to run for more
than `IDLE` of the time, or the load generator or the upstream had a core to itself for more than `FULL` of it.
"""

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.processes import Usage

IDLE = 0.15
FULL = 0.9
Sides = tuple[str, str]
"""What the two columns of a table are."""
PROXIES: Sides = ("bare proxy", "gateway")


@dataclass(frozen=True, slots=True)
class Sample:
    """So many units (requests, events) in the time of `usage`, by process: `proxy`, `upstream`, `generator`."""

    units: int
    usage: dict[str, Usage]

    @property
    def rate(self) -> float:
        """Units per second."""
        return self.units / self.usage["proxy"].wall * 1e9

    @property
    def cpu_us(self) -> float:
        """The processor time per unit of the proxy and what it has started, in microseconds."""
        used = self.usage["proxy"]
        return (used.cpu + used.children) / max(self.units, 1) / 1e3

    @property
    def busy(self) -> str:
        """Who was busy how much of the time."""
        return ", ".join(f"{name} {usage.busy:.0%}" for name, usage in self.usage.items())


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table, as text; and what is to be said of it below."""

    cells: tuple[str, ...]
    remarks: tuple[str, ...] = ()


Pair = tuple[Sample, Sample]
"""The samples of both sides, taken right after each other."""


def rate_row(name: str, pairs: Sequence[Pair], *, sides: Sides = PROXIES, limited_by_proxy: bool = True) -> Row:
    """Units per second and processor time per unit, medians over the rounds; ratios are taken within a round."""
    bare, ours = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    ratio = f"{median(b.rate / a.rate for a, b in pairs):.2f}"
    voids = (
        [f"the {who} was not the limit ({s.busy})" for who, s in _unlimited(pairs, sides)] if limited_by_proxy else []
    )
    remarks = tuple(f"{name}: rates are VOID, {void}; CPU times still hold" for void in voids)
    ratio = "void" if voids else ratio
    rates = (f"{median(s.rate for s in bare):,.0f}/s", f"{median(s.rate for s in ours):,.0f}/s")
    return Row((name, *rates, ratio, *cpu_cells(pairs)), remarks)


def _unlimited(pairs: Sequence[Pair], sides: Sides) -> list[tuple[str, Sample]]:
    """The samples that something else than the proxy has limited."""
    return [
        (who, sample)
        for pair in pairs
        for who, sample in zip(sides, pair, strict=True)
        if sample.usage["proxy"].busy < 1 - IDLE
        or max(usage.cpu / usage.wall for name, usage in sample.usage.items() if name != "proxy") > FULL
    ]


def cpu_cells(pairs: Sequence[Pair]) -> tuple[str, str, str]:
    """Processor time per unit of both, and how many times as much the gateway takes."""
    bare, ours = median(pair[0].cpu_us for pair in pairs), median(pair[1].cpu_us for pair in pairs)
    ratio = median(b.cpu_us / a.cpu_us for a, b in pairs)
    return f"{bare:,.1f} us", f"{ours:,.1f} us", f"{ratio:.1f}x"


def plain_row(name: str, bare: str, ours: str, ratio: str = "") -> Row:
    """A row without processor times."""
    return Row((name, bare, ours, ratio, "", "", ""))


def show(tables: Mapping[Sides, Sequence[Row]], machine: str) -> str:
    """The tables in Markdown, the machine, and what is to be said of single rows."""
    drawn = [line for sides, rows in tables.items() for line in (*_drawn(sides, rows), "")]
    remarks = [f"* {remark}" for rows in tables.values() for row in rows for remark in row.remarks]
    return "\n".join([*drawn, machine, *remarks])


def _drawn(sides: Sides, rows: Sequence[Row]) -> list[str]:
    lines = [("", *sides, "ratio", *(f"CPU {side}" for side in sides), "CPU ratio"), *(row.cells for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    lines.insert(1, tuple("-" * width for width in widths))
    return [f"| {' | '.join(_fitted(line, widths))} |" for line in lines]


def _fitted(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    first, *rest = zip(line, widths, strict=True)
    return [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)]


def machine() -> str:
    """What this ran on."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    load = "/".join(f"{value:.1f}" for value in os.getloadavg())
    return f"{os.cpu_count()} cores ({model}), Python {platform.python_version()}, uvloop; load average {load}"
