"""From settings to what users read of them: the flags of the command line, their help, and README's table.

Rule: pure; knows no setting by name, no vendor library, nothing else of the gateway. Called by `gateway.config` alone.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, Protocol, get_args, get_origin

from gateway import config_reading as reading

_METAVARS: Final = (
    ("_by_model", "MODEL=SECONDS,..."),
    ("prices", "MODEL=INPUT/CACHED/OUTPUT,..."),
    ("_schedule_s", "SECONDS,..."),
    ("_origins", "ORIGIN,..."),
    ("sealing_keys", "KEY,..."),
    ("_file", "FILE"),
    ("_per_s", "NUMBER"),
    ("_s", "SECONDS"),
    ("_bytes", "BYTES"),
    ("listen", "HOST:PORT"),
    ("upstream", "URL"),
    ("store", "URL"),
    ("", "VALUE"),
)


class Field(Protocol):
    """A setting as `config.Settings` declares it."""

    annotation: Any
    default: Any
    description: str | None


def add_flags(parser: argparse.ArgumentParser, fields: Mapping[str, Field]) -> None:
    """Add `--config FILE` and one flag per setting; the namespace then holds only those that were typed."""
    group = parser.add_argument_group("settings", "each is also a variable (in brackets) and a key of the file")
    group.add_argument("--config", type=Path, metavar="FILE", help=f"TOML file [{reading.FILE_VARIABLE}]")
    for name, field in fields.items():
        how: dict[str, Any] = {"metavar": next(word for ending, word in _METAVARS if name.endswith(ending))}
        if get_origin(field.annotation) is Literal:
            how = {"metavar": "|".join(get_args(field.annotation))}
        elif field.annotation is bool:
            how = {"action": argparse.BooleanOptionalAction}
        meaning = f"{field.description} (default: {default(name, field)}) [{reading.variable(name)}]"
        help_text = meaning.replace("%", "%%")
        group.add_argument(reading.flag(name), dest=name, default=argparse.SUPPRESS, help=help_text, **how)


def table(fields: Mapping[str, Field]) -> str:
    """The settings as a Markdown table."""
    rows = ["| flag | variable | default | meaning |", "| --- | --- | --- | --- |"]
    for name, field in fields.items():
        flag = f"`{reading.flag(name)}`" + (f", `--no{reading.flag(name)[1:]}`" if field.annotation is bool else "")
        rows.append(f"| {flag} | `{reading.variable(name)}` | {default(name, field)} | {field.description} |")
    return "\n".join(rows)


def default(name: str, field: Field) -> str:
    """A default as a user would write it; "none" where there is none."""
    value = field.default
    if name.endswith("_bytes"):
        return f"{value // 2**20}MiB" if value % 2**20 == 0 else f"{value // 2**10}KiB"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        parts = (f"{part[0]}={part[1]:g}" if isinstance(part, tuple) else f"{part:g}" for part in value)
        return ",".join(parts) or "none"
    return "none" if value is None else f"{value:.10g}" if isinstance(value, float) else str(value)
