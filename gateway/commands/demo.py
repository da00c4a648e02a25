"""`demo`: the main job, walked through on a simulator of its own."""

import argparse

from gateway.demo import run as demo

EXAMPLES = """\
It starts a simulated Responses API and a gateway on free ports, uses them with OpenAI's SDK, and says what it does and
sees. Nothing leaves this machine and nothing is kept. Exit status 1 if anything it shows is not so.
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """It has none."""


def run(arguments: argparse.Namespace) -> int:
    """Walk through it."""
    return demo()
