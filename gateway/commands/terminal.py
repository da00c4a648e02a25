"""What commands say to a person: lines on stdout, complaints on stderr, durations, sizes, tables.

A terminal acts on control characters, and model names or messages are other people's text: none of theirs gets out.
"""

import sys
from collections.abc import Sequence

_CONTROL = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if code != 0x0A}
_UNITS = ((86400.0, "d", 3600.0, "h"), (3600.0, "h", 60.0, "m"), (60.0, "m", 1.0, "s"))


class Failed(Exception):
    """A command cannot do what it is for; the message is the line that says why. Exit status 1."""


def say(text: str = "") -> None:
    """Write a line, or several, to stdout, at once."""
    sys.stdout.write(text.translate(_CONTROL) + "\n")
    sys.stdout.flush()


def complain(text: str) -> None:
    """Write what went wrong to stderr, on one line."""
    sys.stderr.write(f"responses-gateway: {' '.join(text.split())}".translate(_CONTROL) + "\n")


def duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3m 20s`, `2h 5m`, `4d 3h`."""
    for size, name, smaller, smaller_name in _UNITS:
        if seconds >= size:
            return f"{seconds // size:.0f}{name} {seconds % size // smaller:.0f}{smaller_name}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


def size(amount: float) -> str:
    """`512 B`, `1.5 KiB`, `20.0 MiB`."""
    if amount < 1024:
        return f"{amount:.0f} B"
    power = 1 if amount < 1024**2 else 2 if amount < 1024**3 else 3
    return f"{amount / 1024**power:.1f} {'KMG'[power - 1]}iB"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows under a head, in columns as wide as what is in them."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)
    )
