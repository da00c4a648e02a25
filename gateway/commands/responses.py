"""`responses list | show | tail | cancel`: what a running gateway holds, from its operator API."""

import argparse
import json
from typing import Any

from gateway.commands import operator, stories
from gateway.commands.operator import path_of
from gateway.commands.terminal import Failed, say, table
from gateway.domain.response import Status

EXAMPLES = """\
examples:
  responses-gateway responses list --live
  responses-gateway responses list --stuck --json
  responses-gateway responses show resp_68a1...
  responses-gateway responses tail resp_68a1... --after 120
  responses-gateway responses cancel resp_68a1...
  GATEWAY_OPS_URL=http://gateway-1:9464 GATEWAY_OPS_TOKEN=... responses-gateway responses list
"""

_ID = "upstream's id of a response, or the gateway's key of it"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The four commands within this one, each with its flags."""
    commands = parser.add_subparsers(dest="action", metavar="COMMAND", title="commands", required=True)
    how: Any = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}

    listed = commands.add_parser("list", help="a table, newest first", epilog=_LIST, **how)
    listed.add_argument("--live", action="store_true", help="only those that have not ended")
    listed.add_argument("--stuck", action="store_true", help="only those that should move and do not")
    listed.add_argument(
        "--status", choices=list(map(str, Status)), metavar="STATUS", help=f"one of {', '.join(Status)}"
    )
    listed.add_argument("--limit", type=int, default=50, metavar="N", help="at most so many (default: 50)")
    listed.add_argument("--before", metavar="KEY", help="only those older than this one: the next page")
    listed.add_argument("--json", action="store_true", help="the API's answer instead of a table")
    listed.set_defaults(act=_list)

    shown = commands.add_parser("show", help="one response's story", **how)
    shown.add_argument("name", metavar="ID", help=_ID)
    shown.add_argument("--json", action="store_true", help="the API's answer instead of text")
    shown.set_defaults(act=_show)

    tailed = commands.add_parser("tail", help="its events, live, until its end", epilog=_TAIL, **how)
    tailed.add_argument("name", metavar="ID", help=_ID)
    tailed.add_argument("--after", type=int, metavar="N", help="begin after this sequence number (default: all)")
    tailed.set_defaults(act=_tail)

    cancelled = commands.add_parser("cancel", help="ask upstream to cancel it, as its owner would", **how)
    cancelled.add_argument("name", metavar="ID", help=_ID)
    cancelled.set_defaults(act=_cancel)
    for subparser in (listed, shown, tailed, cancelled):
        operator.add_flags(subparser)


_LIST = """\
columns: AGE is time from create to now, or to the end; TAIL the last event in the log; POLLS those of clients and,
after the slash, those that the gateway made upstream; STUCK why it does not move, and for how long; TRACE the trace id.
"""
_TAIL = """\
Contents of events are shown only where the gateway runs with --ops-content.
"""


def run(arguments: argparse.Namespace) -> int:
    """One of the four. Raises Failed, SettingsError."""
    status: int = arguments.act(operator.from_flags(arguments), arguments)
    return status


def _list(gateway: operator.Operator, arguments: argparse.Namespace) -> int:
    page = gateway.get(
        "/responses",
        live="true" if arguments.live else None,
        stuck="true" if arguments.stuck else None,
        status=arguments.status,
        limit=arguments.limit,
        before=arguments.before,
    )
    if arguments.json:
        say(json.dumps(page, indent=2))
        return 0
    rows = [stories.row(story) for story in page["data"]]
    say(table(stories.HEAD, rows) if rows else "No such responses.")
    if page["has_more"]:
        say(f"\nOlder ones: add --before {page['last_key']}")
    return 0


def _show(gateway: operator.Operator, arguments: argparse.Namespace) -> int:
    story = gateway.get(path_of(arguments.name))
    say(json.dumps(story, indent=2) if arguments.json else stories.told(story))
    return 0


def _tail(gateway: operator.Operator, arguments: argparse.Namespace) -> int:
    story = gateway.get(path_of(arguments.name))
    if not story["logged"] and story["live"]:
        say("It is polled, so it has no events; waiting for its end.")
    for event in gateway.events(path_of(story["key"], "events"), follow="true", after=arguments.after):
        if "number" in event:
            say(stories.event(event))
            continue
        if event["code"] is not None:
            say(f"The log ends without a terminal event: {event['code']}: {event['message']}")
        say(stories.summary(gateway.get(path_of(story["key"]))))
        return 0
    raise Failed("the connection to the gateway broke off before the end; tail again with --after")


def _cancel(gateway: operator.Operator, arguments: argparse.Namespace) -> int:
    say(stories.summary(gateway.post(path_of(arguments.name, "cancel"), timeout_s=60.0)))
    return 0
