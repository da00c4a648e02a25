"""Stories of responses, as the operator API gives them, for people to read. Pure: the API's JSON in, text out."""

import json
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from gateway.commands.terminal import duration

Story = Mapping[str, Any]

HEAD = ("ID", "STATUS", "MODE", "MODEL", "AGE", "TAIL", "POLLS", "STUCK", "TRACE")
_DELTA_CHARACTERS = 100


def row(story: Story) -> tuple[str, ...]:
    """A story as a row under `HEAD`."""
    return (
        story["response_id"] or story["key"],
        _status(story),
        story["mode"],
        story["model"] or "-",
        duration(story["duration_s"]),
        str(story["tail"]) if story["tail"] >= 0 else "-",
        f"{story['client_polls']}/{story['upstream_polls']}",
        _stuck(story) or "-",
        story["trace_id"],
    )


def summary(story: Story) -> str:
    """`resp_...: completed after 12 s, 130 events`."""
    state = f"{_status(story)} after {duration(story['duration_s'])}"
    events = f", {_many(story['tail'] + 1, 'event')}" if story["logged"] else ""
    return f"{story['response_id'] or story['key']}: {state}{events}"


def told(story: Story) -> str:
    """A story as a page: one line per thing that there is to say."""
    lines = {name: text for name, text in (_state(story) | _course(story) | _names(story)).items() if text}
    width = max(map(len, lines))
    title = story["response_id"] or f"{story['key']} (upstream has not named it)"
    return "\n".join([title, *(f"  {name.ljust(width)}  {text}" for name, text in lines.items())])


def event(shown: Mapping[str, Any]) -> str:
    """An event of a log on one line; a delta's text behind it where the gateway shows contents."""
    line = f"{shown['number']:>6}  {shown['type']:<42} {shown['bytes']:>8,} B"
    delta = _delta(shown.get("data"))
    return line if delta is None else f"{line}  {json.dumps(delta, ensure_ascii=False)[:_DELTA_CHARACTERS]}"


def _state(story: Story) -> dict[str, str | None]:
    error, stuck, waits = story["error"] or {}, _stuck(story), story["waits_for_owner"]
    return {
        "status": _status(story) + (f", stuck: {stuck}" if stuck else ""),
        "waits": "for its owner: the gateway holds no credential to ask upstream with" if waits else "",
        "error": ": ".join(filter(None, error.values())),
        "incomplete": story["incomplete_reason"],
        "model": story["model"],
        "mode": f"{story['mode']}, {story['followed']}",
    }


def _course(story: Story) -> dict[str, str | None]:
    ended_at, odd = story["ended_at"], story["contradictions"]
    return {
        "created": _when(story["created_at"]),
        "statuses": _statuses(story),
        "first output": _after(story["first_output_s"]),
        "ended": f"{_when(ended_at)}, {_after(story['duration_s'])}" if ended_at is not None else "",
        "polls": f"{story['client_polls']} by clients, {story['upstream_polls']} to upstream",
        "readers": _readers(story),
        "tokens": _tokens(story["tokens"]),
        "log": _log(story),
        "oddities": f"upstream contradicted itself {_many(odd, 'time')}" if odd else "",
    }


def _names(story: Story) -> dict[str, str | None]:
    return {
        "follows": story["previous_response_id"],
        "conversation": story["conversation"],
        "trace": f"{story['trace_id']} (span {story['span_id']}{'' if story['sampled'] else ', not exported'})",
        "request id": story["upstream_request_id"],
        "owner": f"{story['owner']}... (a hash), route {story['route']}",
        "key": story["key"],
    }


def _delta(data: str | None) -> str | None:
    try:
        found = json.loads(data or "null")
    except ValueError:
        return None
    delta = found.get("delta") if isinstance(found, dict) else None
    return delta if isinstance(delta, str) else None


def _status(story: Story) -> str:
    """Upstream's status; where tracking ended without its final word, that."""
    status = story["status"] or "no status"
    return status if story["ending"] in (None, "terminal") else f"{story['ending']} ({status})"


def _stuck(story: Story) -> str:
    stuck = story["stuck"]
    return f"{stuck['reason']} {duration(max(0.0, time.time() - stuck['since']))}" if stuck else ""


def _statuses(story: Story) -> str:
    seen = [
        one["status"] if one["seconds"] is None else f"{one['status']} {duration(one['seconds'])}"
        for one in story["statuses"]
    ]
    return " -> ".join(seen) + (" so far" if seen and story["live"] else "")


def _readers(story: Story) -> str:
    if not story["attaches"]:
        return ""
    counted = (("attach", "attaches"), ("resume", "resumes"), ("disconnect", "disconnects"))
    return f"{story['readers']} now; {', '.join(_many(story[many], one, many) for one, many in counted)}"


def _log(story: Story) -> str:
    if not story["logged"]:
        return ""
    again = f", re-attached to upstream {_many(story['reattaches'], 'time')}" if story["reattaches"] else ""
    made = ", its end made from the polled object" if story["synthesised"] else ""
    return f"tail {story['tail']}, last {story['last_event'] or 'event not known'}{again}{made}"


def _tokens(tokens: Mapping[str, int] | None) -> str:
    if tokens is None:
        return ""
    return "{input} in ({cached} cached), {output} out ({reasoning} reasoning)".format(**tokens)


def _after(seconds: float | None) -> str:
    return "" if seconds is None else f"after {duration(seconds)}"


def _when(at: float) -> str:
    return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S %z")


def _many(count: int, one: str, many: str | None = None) -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"
