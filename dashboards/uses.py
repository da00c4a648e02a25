"""What uses which metric, and the tables that README shows of it. Pure."""

from collections.abc import Iterator, Mapping

from dashboards import background, levels, overview, runtime
from dashboards.alerts import ALERTS
from dashboards.layout import Dashboard
from dashboards.promql import metrics_of

DASHBOARDS: Mapping[str, Dashboard] = {
    "overview": overview.DASHBOARD,
    "background": background.DASHBOARD,
    "runtime": runtime.DASHBOARD,
}
"""By the name of the file."""

_RECORDED = {rule["record"]: rule["expr"] for group in levels.groups() for rule in group["rules"]}


def read_by(expression: str) -> set[str]:
    """The metrics of an expression; what a rule has recorded counts as what that rule reads."""
    found = set(metrics_of(expression))
    return {read for name in found for read in ((read_by(_RECORDED[name]) | {name}) if name in _RECORDED else {name})}


def uses() -> dict[str, tuple[str, str]]:
    """By metric: the panels and the alerts that use it, each as text."""
    panels, alerts = dict(_panels()), dict(_alerts())
    return {name: (panels.get(name, ""), alerts.get(name, "")) for name in {*panels, *alerts}}


def alert_table() -> str:
    """The alerts as a Markdown table."""
    rows = ["| alert | severity | when |", "|---|---|---|"]
    seen: dict[str, list[str]] = {}
    for alert in ALERTS:
        severities = seen.setdefault(alert.name, [])
        if alert.severity not in severities:
            severities.append(alert.severity)
    when = {alert.name: alert.when for alert in ALERTS}
    for name, severities in seen.items():
        rows.append(f"| [{name}](dashboards/RUNBOOK.md#{name.lower()}) | {', '.join(severities)} | {when[name]} |")
    return "\n".join(rows) + "\n"


def level_table() -> str:
    """The service levels as a Markdown table."""
    rows = ["| service level | target | good are |", "|---|---|---|"]
    rows += [f"| {level.title} | {level.target:g} % | {level.about} |" for level in levels.LEVELS]
    return "\n".join(rows) + "\n"


def _panels() -> Iterator[tuple[str, str]]:
    found: dict[str, dict[str, list[str]]] = {}
    for dashboard in DASHBOARDS.values():
        title = dashboard.title.partition(" / ")[2]
        for panel in dashboard.panels:
            for name in sorted({name for text in panel.expressions for name in read_by(text)}):
                found.setdefault(name, {}).setdefault(title, []).append(panel.title)
    for name, shown in found.items():
        yield name, "; ".join(f"{title}: {' · '.join(titles)}" for title, titles in shown.items())


def _alerts() -> Iterator[tuple[str, str]]:
    found: dict[str, list[str]] = {}
    for alert in ALERTS:
        short = alert.name.removeprefix("ResponsesGateway")
        for name in read_by(alert.expr):
            if short not in found.setdefault(name, []):
                found[name].append(short)
    for name, alerts in found.items():
        yield name, ", ".join(alerts)
