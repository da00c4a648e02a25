"""Links of panels: to traces, to the other dashboards."""

import json
import re
from urllib.parse import quote

from dashboards.panels import Json
from gateway.telemetry import names

TAG = "responses-gateway"
"""Of all three dashboards."""


def explore_traces(query: str) -> str:
    """A link to Explore: a trace id, or TraceQL, asked of the chosen source of traces over the time that is shown."""
    asked = {"refId": "A", "queryType": "traceql", "query": query}
    pane = {"datasource": "${traces}", "queries": [asked], "range": {"from": "${__from}", "to": "${__to}"}}
    # Grafana fills in a variable where it is written plainly, and only there.
    pieces = re.split(r"(\$\{[\w.]+\})", json.dumps({"trace": pane}))
    escaped = "".join(piece if n % 2 else quote(piece, safe="") for n, piece in enumerate(pieces))
    return f"/explore?schemaVersion=1&panes={escaped}&orgId=1"


def traces(title: str, query: str) -> Json:
    """A panel's link to the traces that TraceQL finds. `gateway.*` attributes are on no other service's spans."""
    return {
        "type": "link",
        "title": title,
        "url": explore_traces(f"{{{query}}}"),
        "targetBlank": True,
        "icon": "external link",
        "tooltip": "",
        "tags": [],
        "asDropdown": False,
        "includeVars": False,
        "keepTime": False,
    }


TRACE_LINK: Json = {"title": "Trace", "url": explore_traces("${__value.raw}"), "targetBlank": True}
"""The link of a cell that holds a trace id."""
RESPONSES = traces("Traces of responses", f'name =~ "{names.OPERATION_CHAT} .*" && span.{names.GATEWAY_KEY} != nil')


def dashboard_link(title: str, uid: str) -> Json:
    """A link to another of the dashboards, with what is chosen here."""
    return {"title": title, "url": f"/d/{uid}?${{__url_time_range}}&${{__all_variables}}"}
