"""Shapes of Grafana's classic dashboard schema (schemaVersion 39): one function a kind of panel, what they share.

Rule: a panel's description ends with the metrics that it shows, its histograms show exemplars, and it asks the data
source that was chosen. Called by the three dashboards.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dashboards.promql import RATE, chosen, metrics_of, quantile

Json = dict[str, Any]

COLUMNS = 24
PROMETHEUS: Json = {"type": "prometheus", "uid": "${datasource}"}
OPERATORS: Json = {"type": "yesoreyeram-infinity-datasource", "uid": "${operators}"}
GREEN, YELLOW, ORANGE, RED, BLUE, PURPLE, GREY = "green", "yellow", "orange", "red", "blue", "purple", "#808080"


@dataclass(frozen=True, slots=True)
class Query:
    """PromQL and what its series are called. `instant`: now, for tables and tiles."""

    expression: str
    legend: str = "__auto"
    instant: bool = False

    def target(self, ref: str, shape: str) -> Json:
        """As a panel's target; a histogram's shows exemplars."""
        return {
            "refId": ref,
            "datasource": PROMETHEUS,
            "expr": chosen(self.expression),
            "legendFormat": self.legend,
            "editorMode": "code",
            "format": shape,
            "instant": self.instant,
            "range": not self.instant,
            "exemplar": "_bucket{" in self.expression and not self.instant,
        }


def spread(histogram: str, where: str = "@", by: str = "", *, high: float = 0.95, name: str = "") -> list[Query]:
    """The median and a high quantile of a histogram. `name`: what its series are called, by default after `by`."""
    called = name or (f"{{{{{by}}}}} " if by else "")
    return [
        Query(quantile(0.5, histogram, where, by), f"{called}median"),
        Query(quantile(high, histogram, where, by), f"{called}{100 * high:g} %"),
    ]


def steps(first: str, *then: tuple[float, str]) -> Json:
    """Thresholds: a colour, and from each value on another."""
    values = [{"color": first, "value": None}, *({"color": color, "value": value} for value, color in then)]
    return {"mode": "absolute", "steps": values}


def named(name: str, **properties: Any) -> Json:
    """What is different for the series or column of this name."""
    return {
        "matcher": {"id": "byName", "options": name},
        "properties": [{"id": key.replace("__", "."), "value": value} for key, value in properties.items()],
    }


def colors(**by_name: str) -> list[Json]:
    """Series that have the same colour wherever they are shown; every name that begins so."""
    return [
        {
            "matcher": {"id": "byRegexp", "options": f"/^{name}( .*)?$/"},
            "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": color}}],
        }
        for name, color in by_name.items()
    ]


@dataclass(slots=True)
class Panel:
    """A panel before it has its place. `share`: of its line's width, beside the shares of its neighbours."""

    title: str
    body: Json
    height: int = 8
    share: int = 1
    expressions: Sequence[str] = ()


def _panel(
    kind: str, title: str, about: str, queries: Sequence[Query], *, height: int = 8, share: int = 1, **body: Any
) -> Panel:
    shape = {"table": "table", "heatmap": "heatmap"}.get(kind, "time_series")
    expressions = [chosen(query.expression) for query in queries]
    shown = list(dict.fromkeys(name for text in expressions for name in metrics_of(text)))
    ends = "\n\nMetric" + ("s" if len(shown) > 1 else "") + ": " + ", ".join(f"`{name}`" for name in shown) + "."
    return Panel(
        title,
        {
            "type": kind,
            "title": title,
            "description": about + ends,
            "datasource": PROMETHEUS,
            "targets": [query.target(chr(ord("A") + n), shape) for n, query in enumerate(queries)],
            "links": [],
            **body,
        },
        height,
        share,
        expressions,
    )


def lines(
    title: str,
    about: str,
    unit: str,
    *queries: Query,
    stacked: bool = False,
    bars: bool = False,
    overrides: Sequence[Json] = (),
    thresholds: Json | None = None,
    empty: str = "Nothing in this time",
    links: Sequence[Json] = (),
    **defaults: Any,
) -> Panel:
    """Series over time. `thresholds` are drawn as lines."""
    custom = {
        "drawStyle": "bars" if bars else "line",
        "lineInterpolation": "linear",
        "lineWidth": 0 if bars else 1,
        "fillOpacity": 80 if bars else 30 if stacked else 8,
        "gradientMode": "none",
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if stacked or bars else "none", "group": "A"},
        "thresholdsStyle": {"mode": "line" if thresholds else "off"},
    }
    return _panel(
        "timeseries",
        title,
        about,
        queries,
        links=list(links),
        fieldConfig={
            "defaults": {
                "unit": unit,
                "min": 0,
                "color": {"mode": "palette-classic"},
                "custom": custom,
                "noValue": empty,
                "thresholds": thresholds or steps(GREEN),
                **defaults,
            },
            "overrides": list(overrides),
        },
        options={
            "legend": {
                "showLegend": True,
                "displayMode": "table",
                "placement": "bottom",
                "calcs": ["lastNotNull", "max"],
            },
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
    )


def tiles(title: str, about: str, unit: str, *queries: Query, overrides: Sequence[Json]) -> Panel:
    """One number a query, each with its own colours."""
    return _panel(
        "stat",
        title,
        about,
        queries,
        height=5,
        fieldConfig={
            "defaults": {"unit": unit, "color": {"mode": "thresholds"}, "thresholds": steps(GREEN), "noValue": "none"},
            "overrides": list(overrides),
        },
        options={
            "colorMode": "value",
            "graphMode": "area",
            "justifyMode": "center",
            "orientation": "auto",
            "textMode": "value_and_name",
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        },
    )


def heatmap(title: str, about: str, histogram: str, where: str, *, links: Sequence[Json] = ()) -> Panel:
    """A histogram's buckets over time, in seconds."""
    query = Query(f"sum by (le) (increase({histogram}_bucket{{{where}}}[{RATE}]))", "{{le}}")
    return _panel(
        "heatmap",
        title,
        about,
        [query],
        links=list(links),
        fieldConfig={"defaults": {"noValue": "Nothing in this time", "unit": "short"}, "overrides": []},
        options={
            "calculate": False,
            "cellGap": 1,
            "color": {
                "mode": "scheme",
                "scheme": "Blues",
                "steps": 64,
                "exponent": 0.5,
                "fill": "blue",
                "reverse": True,
            },
            "exemplars": {"color": "rgba(255,0,255,0.7)"},
            "filterValues": {"le": 1e-9},
            "legend": {"show": True},
            "rowsFrame": {"layout": "auto"},
            "tooltip": {"mode": "single", "yHistogram": False, "showColorScale": False},
            "yAxis": {"axisPlacement": "left", "unit": "s", "reverse": False},
        },
    )


def table(
    title: str,
    about: str,
    unit: str,
    *queries: Query,
    columns: Mapping[str, str],
    sort: str,
    share: int = 1,
    overrides: Sequence[Json] = (),
    empty: str = "Nothing in this time",
    links: Sequence[Json] = (),
) -> Panel:
    """What instant queries say, side by side. `columns`: those that are shown, in order, and what they are called."""
    order = {name: place for place, name in enumerate(columns)}
    return _panel(
        "table",
        title,
        about,
        queries,
        share=share,
        links=list(links),
        fieldConfig=_cells(unit, empty, overrides),
        options={**_PLAIN, "sortBy": [{"displayName": sort, "desc": True}]},
        transformations=[
            {"id": "merge", "options": {}},
            {"id": "filterFieldsByName", "options": {"include": {"names": list(columns)}}},
            {"id": "organize", "options": {"indexByName": order, "renameByName": dict(columns), "excludeByName": {}}},
        ],
    )


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table from JSON: the place in each element, the heading, the kind of its values."""

    selector: str
    text: str
    type: str = "string"


def json_table(
    title: str,
    about: str,
    path: str,
    parameters: Mapping[str, str],
    columns: Sequence[Column],
    overrides: Sequence[Json],
    links: Sequence[Json],
) -> Panel:
    """What a list of the operators' API says, by a data source for JSON (Infinity)."""
    target = {
        "refId": "A",
        "datasource": OPERATORS,
        "type": "json",
        "parser": "backend",
        "source": "url",
        "format": "table",
        "url": path,
        "url_options": {
            "method": "GET",
            "data": "",
            "params": [{"key": key, "value": value} for key, value in parameters.items()],
        },
        "root_selector": "data",
        "columns": [{"selector": one.selector, "text": one.text, "type": one.type} for one in columns],
        "filters": [],
        "global_query_id": "",
    }
    body = {
        "type": "table",
        "title": title,
        "description": about,
        "datasource": OPERATORS,
        "targets": [target],
        "links": list(links),
        "fieldConfig": _cells("string", "None: nothing is stuck", overrides),
        "options": _PLAIN,
    }
    return Panel(title, body)


_PLAIN: Json = {"showHeader": True, "cellHeight": "sm", "footer": {"show": False}}


def _cells(unit: str, empty: str, overrides: Sequence[Json]) -> Json:
    custom = {"align": "auto", "cellOptions": {"type": "auto"}, "filterable": True, "inspect": False}
    return {
        "defaults": {"unit": unit, "custom": custom, "noValue": empty, "thresholds": steps(GREEN)},
        "overrides": list(overrides),
    }
