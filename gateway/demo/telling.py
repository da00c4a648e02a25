"""What the demo says: chapters, plain lines, and claims that were checked. Called by the chapters alone."""

from collections.abc import Mapping
from typing import TextIO

_LABEL = 20
_BOLD, _GREEN, _RED, _DIM, _OFF = "\x1b[1m", "\x1b[32m", "\x1b[31m", "\x1b[2m", "\x1b[0m"


class NotSo(Exception):
    """A claim of the demo does not hold; the message is the line that says so."""


class Teller:
    """Writes to `out`; in colour on a terminal, unless `environ` has NO_COLOR (no-color.org) or a dumb TERM."""

    def __init__(self, out: TextIO, environ: Mapping[str, str]) -> None:
        self._out = out
        self._colour = out.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
        self._chapters = 0
        self.claims = 0

    def title(self, text: str) -> None:
        """The demo's own name."""
        self._line(self._painted(_BOLD, text))
        self._line("=" * len(text))

    def chapter(self, text: str) -> None:
        """A new chapter; chapters are numbered."""
        self._chapters += 1
        self._line()
        self._line(self._painted(_BOLD, f"{self._chapters}. {text}"))

    def say(self, *lines: str) -> None:
        """What is done, or what it means."""
        for line in lines:
            self._line(f"   {line}".rstrip())

    def show(self, label: str, value: object) -> None:
        """Something that was seen."""
        self._line(f"     {label:<{_LABEL}} {value}")

    def quote(self, text: str) -> None:
        """Text as the gateway gave it."""
        for line in text.splitlines():
            self._line(f"     {self._painted(_DIM, line)}")

    def claim(self, text: str, holds: bool, seen: object = "") -> None:
        """Something that has to be so. Raises `NotSo` if it is not; `seen` says what was there instead."""
        if not holds:
            raise NotSo(f"{text}: not so{f' ({seen})' if seen != '' else ''}")
        self.claims += 1
        self._line(f"   {self._painted(_GREEN, 'ok')} {text}")

    def fail(self, text: str) -> None:
        """The plain line with which a demo ends that cannot go on."""
        self._line(f"   {self._painted(_RED, 'FAILED')} {text}")

    def _painted(self, colour: str, text: str) -> str:
        return f"{colour}{text}{_OFF}" if self._colour else text

    def _line(self, text: str = "") -> None:
        self._out.write(f"{text}\n")
        self._out.flush()
