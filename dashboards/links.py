"""Links of panels: to traces, to the other dashboards."""

import json
import re
from typing import Any
from urllib.parse import quote

Json = dict[str, Any]

TAG = "responses-gateway"
"""Of the dashboards; also the name of the service in traces."""


def explore_traces(query: str) -> str:
    """A link to Explore: a trace id, or TraceQL, asked of the chosen source of traces over the time that is shown."""
    asked = {"refId": "A", "queryType": "traceql", "query": query}
    pane = {"datasource": "${traces}", "queries": [asked], "range": {"from": "${__from}", "to": "${__to}"}}
    # Grafana fills in a variable where it is written plainly, and only there.
    pieces = re.split(r"(\$\{[\w.]+\})", json.dumps({"trace": pane}))
    escaped = "".join(piece if n % 2 else quote(piece, safe="") for n, piece in enumerate(pieces))
    return f"/explore?schemaVersion=1&panes={escaped}&orgId=1"


def traces(title: str, where: str) -> Json:
    """A panel's link to the traces that TraceQL finds among the gateway's spans."""
    url = explore_traces(f'{{resource.service.name = "{TAG}" && {where}}}')
    return {"title": title, "url": url, "targetBlank": True}


TRACE_LINK: Json = {"title": "Trace", "url": explore_traces("${__value.raw}"), "targetBlank": True}
"""The link of a cell that holds a trace id."""
RESPONSES = traces("Traces of responses", 'name =~ "chat.*"')


def dashboard_link(title: str, uid: str) -> Json:
    """A link to another of the dashboards, with what is chosen here."""
    return {"title": title, "url": f"/d/{uid}?${{__url_time_range}}&${{__all_variables}}"}
