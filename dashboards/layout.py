"""A whole dashboard: its variables, its links, and where its panels are placed.

Rule: panels are laid out line by line in their order, and numbered in it; nothing is placed by hand.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from dashboards.links import TAG
from dashboards.panels import BLUE, COLUMNS, PROMETHEUS, Json, Panel
from dashboards.promql import RATE, chosen


@dataclass(frozen=True, slots=True)
class Dashboard:
    """A dashboard: sections in order, each a heading (none: "") and its lines of panels, each as wide as the page."""

    uid: str
    title: str
    about: str
    sections: Sequence[tuple[str, Sequence[Sequence[Panel]]]]
    sources: Sequence[Json] = ()

    @property
    def panels(self) -> list[Panel]:
        """Without headings."""
        return [panel for _, shelves in self.sections for shelf in shelves for panel in shelf]

    def panel_id(self, title: str) -> int:
        """The number of the panel of this title: for links. Raises StopIteration."""
        return next(int(panel["id"]) for panel in self._placed() if panel["title"] == title)

    def json(self) -> Json:
        """As Grafana loads it."""
        return {
            "uid": self.uid,
            "title": self.title,
            "description": self.about,
            "tags": [TAG],
            "schemaVersion": 39,
            "version": 1,
            "editable": False,
            "graphTooltip": 1,
            "timezone": "browser",
            "refresh": "30s",
            "time": {"from": "now-6h", "to": "now"},
            "annotations": {"list": [_STARTS]},
            "links": [_SIBLINGS],
            "templating": {"list": [*_VARIABLES, *self.sources]},
            "panels": self._placed(),
        }

    def _placed(self) -> list[Json]:
        placed: list[Json] = []
        y = 0
        for heading, shelves in self.sections:
            if heading:
                row = {"type": "row", "title": heading, "collapsed": False, "panels": []}
                placed.append({"id": len(placed) + 1, **row, "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1}})
                y += 1
            for shelf in shelves:
                x, shares = 0, sum(panel.share for panel in shelf)
                for panel in shelf:
                    place = {"x": x, "y": y, "w": COLUMNS * panel.share // shares, "h": panel.height}
                    placed.append({"id": len(placed) + 1, **panel.body, "gridPos": place})
                    x += place["w"]
                y += max(panel.height for panel in shelf)
        return placed


def source(name: str, label: str, plugin: str) -> Json:
    """A variable: which data source of a kind."""
    return {
        "type": "datasource",
        "name": name,
        "label": label,
        "query": plugin,
        "hide": 0,
        "includeAll": False,
        "multi": False,
        "refresh": 1,
        "regex": "",
        "options": [],
        "current": {},
    }


def _labels(name: str, label: str, series: str) -> Json:
    query = f"label_values({series}, {name})"
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": PROMETHEUS,
        "definition": query,
        "query": {"query": query, "refId": name},
        "hide": 0,
        "multi": True,
        "includeAll": True,
        "allValue": ".+",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "refresh": 2,
        "regex": "",
        "sort": 1,
        "options": [],
    }


_VARIABLES = (
    source("datasource", "Data Source", "prometheus"),
    source("traces", "Traces", "tempo"),
    _labels("job", "Job", "responses_gateway_build_info"),
    _labels("instance", "Instance", 'responses_gateway_build_info{job=~"$job"}'),
    _labels("model", "Model", chosen("responses_gateway_responses_created_total{@}")),
)
_SIBLINGS: Json = {
    "type": "dashboards",
    "title": "Responses Gateway",
    "tags": [TAG],
    "asDropdown": False,
    "includeVars": True,
    "keepTime": True,
    "targetBlank": False,
    "icon": "external link",
    "tooltip": "",
    "url": "",
}
_STARTS: Json = {
    "name": "Starts",
    "datasource": PROMETHEUS,
    "enable": True,
    "hide": False,
    "iconColor": BLUE,
    "expr": chosen(f"changes(process_start_time_seconds{{@}}[{RATE}]) > 0"),
    "titleFormat": "A gateway started",
    "textFormat": "{{instance}}",
    "step": "",
}
