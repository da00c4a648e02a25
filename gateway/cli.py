"""The console script: `responses-gateway COMMAND`, which is also `python -m gateway COMMAND`.

Exit status: 0 done, 1 it failed (one line on stderr says why), 2 what was typed or set cannot be used, 130 Ctrl-C.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from gateway.commands.terminal import Failed, complain
from gateway.config import SettingsError


@dataclass(frozen=True, slots=True)
class Command:
    """A module with `add_flags(parser)`, `run(arguments) -> int` and `EXAMPLES`, imported once it is asked for."""

    module: str
    about: str


COMMANDS = {
    "serve": Command("gateway.commands.serve", "run the gateway"),
    "simulate": Command("gateway.commands.simulate", "run a simulated Responses API, to try things on without a key"),
    "demo": Command("gateway.commands.demo", "show what the gateway does, on a simulator of its own"),
    "responses": Command("gateway.commands.responses", "show, follow and cancel what a running gateway holds"),
    "check": Command("gateway.commands.check", "check settings, store, upstream and addresses before serving"),
    "purge": Command("gateway.commands.purge", "delete what is past its retention"),
}

# Examples stay as written, and no flag is guessed from its beginning.
_STYLE: Any = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
NAME = "responses-gateway"
ABOUT = """\
An asynchronous reverse proxy in front of the OpenAI Responses API: every background response one observable
job, every stream resumable.
"""
EPILOG = """\
to begin:
  responses-gateway demo                   see it work, no key needed
  responses-gateway serve                  then point the SDK's base_url at http://127.0.0.1:8080/v1
  responses-gateway COMMAND --help         flags and examples of a command
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit status."""
    typed = sys.argv[1:] if arguments is None else list(arguments)
    parser = _parser(typed[0] if typed else None)
    parsed = parser.parse_args(typed)
    if parsed.command is None:
        parser.print_help()
        return 2
    try:
        status: int = parsed.run(parsed)
        sys.stdout.flush()
    except SettingsError as error:
        complain(str(error))
        return 2
    except Failed as error:
        complain(str(error))
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read this (head, less) has enough; Python must not find that out again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


def _parser(asked: str | None) -> argparse.ArgumentParser:
    """The parser, with the flags of the one command that is asked for: the others need not be loaded."""
    listed = "\n".join(f"  {name:<11}{command.about}" for name, command in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog=NAME, usage=f"{NAME} COMMAND ...", description=f"{ABOUT}\ncommands:\n{listed}", epilog=EPILOG, **_STYLE
    )
    parser.add_argument("--version", action="version", version=f"{NAME} {version(NAME)}")
    commands = parser.add_subparsers(dest="command", prog=NAME, metavar="COMMAND", help=argparse.SUPPRESS)
    for name, command in COMMANDS.items():
        module = importlib.import_module(command.module) if name == asked else None
        epilog = module.EXAMPLES if module else None
        subparser = commands.add_parser(name, description=_sentence(command.about), epilog=epilog, **_STYLE)
        if module:
            module.add_flags(subparser)
            subparser.set_defaults(run=module.run)
    return parser


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
