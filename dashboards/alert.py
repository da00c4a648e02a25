"""What an alert is, and how Prometheus loads it."""

from dataclasses import dataclass
from typing import Any

from dashboards.layout import Dashboard

WHERE = "{{ $labels.instance }}"
"""Of whom an alert tells."""


@dataclass(frozen=True, slots=True)
class Alert:
    """One alerting rule. `wait`, `keep`: `for` and `keep_firing_for`.

    `panel`: dashboard and title of what shows it; `when`: the condition in words, for README. `chosen`: labels that it
    may have and that choose what the dashboard shows.
    """

    name: str
    severity: str
    expr: str
    wait: str
    keep: str
    summary: str
    description: str
    panel: tuple[Dashboard, str]
    when: str
    labels: tuple[tuple[str, str], ...] = ()
    chosen: tuple[str, ...] = ("job", "instance", "model")

    def rule(self, grafana: str, runbook: str) -> dict[str, Any]:
        """As Prometheus loads it. `grafana`, `runbook`: the URLs that the links begin with."""
        dashboard, title = self.panel
        query = f"viewPanel={dashboard.panel_id(title)}"
        for label in self.chosen:
            if f"$labels.{label} " in self.summary + self.description or (label == "job" and WHERE in self.summary):
                query += f"&var-{label}={{{{ $labels.{label} | urlquery }}}}"
        waiting = {"for": self.wait, "keep_firing_for": self.keep} if self.wait else {}
        return {
            "alert": self.name,
            "expr": self.expr,
            **waiting,
            "labels": {"severity": self.severity, **dict(self.labels)},
            "annotations": {
                "summary": self.summary,
                "description": self.description,
                "dashboard_url": f"{grafana}/d/{dashboard.uid}?{query}",
                "runbook_url": f"{runbook}#{self.name.lower()}",
            },
        }
