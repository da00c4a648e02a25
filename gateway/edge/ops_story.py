"""One response as operators are shown it: its life so far as JSON values, and nothing that anybody said in it. Pure."""

from typing import Any

from msgspec.structs import asdict

from gateway.domain.identifiers import identifier
from gateway.domain.response import Response, Status
from gateway.relay.live import Live

_OWNER_CHARACTERS = 8


def story(response: Response, live: Live | None, now: float, *, content: bool) -> dict[str, Any]:
    """Everything known of a response. Times are unix seconds, `*_s` seconds; null is "not (yet)" or "not known".

    `live` is the response in this process's hands, if it is. `content`: with upstream's own words, which may repeat a
    client's. The owner is the beginning of a hash: it tells two owners apart and leads to none.
    """
    trace, counts = response.trace, response.counts
    return {
        "object": "response.story",
        "key": response.key,
        "response_id": response.response_id,
        "model": response.model or response.model_asked,
        "mode": response.mode,
        "status": response.status,
        "live": not response.ended,
        "ending": response.ending,
        "error": _error(response, content=content),
        "incomplete_reason": response.incomplete_reason,
        "created_at": response.created_at,
        "ended_at": response.ended_at,
        "statuses": _statuses(response, now),
        "completion_window_s": response.parameters.completion_window_s or None,
        "queue_s": _since(response, response.started_at),
        "first_output_s": _since(response, response.first_output_at),
        "duration_s": _since(response, response.ended_at or now),
        "followed": response.mode_now,
        "client_polls": counts.client_polls,
        "upstream_polls": counts.upstream_polls,
        "attaches": counts.attaches,
        "resumes": counts.resumes,
        "disconnects": counts.disconnects,
        "reattaches": counts.reattaches,
        "readers": len(live.readers) if live else 0,
        "tokens": asdict(response.usage) if response.usage else None,
        "logged": response.logged,
        "tail": response.tail,
        "last_event": identifier(response.last_event),
        "progress_at": max(response.progress_at, response.status_at) or None,
        "synthesised": response.synthesised,
        "contradictions": counts.contradictions,
        "joined": counts.joined,
        "stuck": {"reason": response.stuck, "since": response.stuck_at} if response.stuck else None,
        "waits_for_owner": live.waits_for_owner if live else False,
        "previous_response_id": response.previous_response_id,
        "conversation": response.conversation,
        "trace_id": f"{trace.trace_id:032x}",
        "span_id": f"{trace.span_id:016x}",
        "sampled": trace.sampled,
        "request_id": response.request_id,
        "upstream_request_id": response.upstream_request_id,
        "route": response.route,
        "owner": response.owner[:_OWNER_CHARACTERS],
    }


def _error(response: Response, *, content: bool) -> dict[str, str | None] | None:
    if response.error_code is None and response.error_message is None:
        return None
    return {"code": response.error_code, "message": response.error_message if content else None}


def _since(response: Response, at: float | None) -> float | None:
    return None if at is None else round(max(0.0, at - response.created_at), 3)


def _statuses(response: Response, now: float) -> list[dict[str, Any]]:
    """The statuses that were seen, in order: since when, and for how long (a terminal one: null)."""
    status = response.status
    if status is None:
        return []
    last = response.status_at if response.terminal else response.ended_at or now
    began = [(Status.QUEUED, response.created_at)]
    if response.started_at is not None:
        began.append((Status.IN_PROGRESS, response.started_at))
    until = [at for _, at in began[1:]] + [last]
    seen = [
        {"status": one, "at": at, "seconds": round(max(0.0, end - at), 3)}
        for (one, at), end in zip(began, until, strict=True)
    ]
    return [*seen, {"status": status, "at": response.status_at, "seconds": None}] if response.terminal else seen
