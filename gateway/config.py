"""Every setting of the gateway in one typed class, and the three places a user can write one in.

A setting is a flag (`--poll-max-age-s 2`), an environment variable (`GATEWAY_POLL_MAX_AGE_S=2`) or a key of a TOML
file (`poll_max_age_s = 2`), in that order of precedence. Flags, variables, help and README's table are all generated
from `Settings`: to add a setting, add a field. The string under a field is what the user reads.

Rule: the only reader of `os.environ` and the only importer of pydantic. It knows nothing of the rest of the gateway,
so every floor may read it. pydantic-settings is left out on purpose: its sources skip a missing file, do not notice an
unknown variable and do not say which place a bad value came from, and merging three mappings needs no library.
"""

import argparse
import difflib
import ipaddress
import math
import os
import re
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, get_args
from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel, ConfigDict, PlainValidator, SecretStr, ValidationError, model_validator

PREFIX: Final = "GATEWAY_"
_FILE_VARIABLE: Final = "GATEWAY_CONFIG"
# In a namespace with a service called "gateway" (or "gateway-x") Kubernetes puts these into every pod.
_KUBERNETES: Final = re.compile(r"GATEWAY_(\w+_)?(SERVICE_(HOST|PORT\w*)=|PORT_\d+_|PORT=(tcp|udp|sctp)://)")


class SettingsError(ValueError):
    """A setting that cannot be used. Its text is one line: the place as the user wrote it, and what is accepted."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen. An empty `host` means every interface (as in asyncio), port 0 any free port."""

    host: str
    port: int

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read `127.0.0.1:8080`, `localhost:8080`, `[::1]:8080` or `:8080`. Raises ValueError."""
        if isinstance(value, cls):
            return value
        found = re.fullmatch(r"(?:\[([^\]]+)\]|([\w.-]*)):(\d{1,5})", str(value), re.ASCII)
        try:
            six, host, port = (found[1], found[2] or "", int(found[3])) if found else (None, "", 65536)
            if six is not None:
                host = str(ipaddress.IPv6Address(six))
            elif re.fullmatch(r"[\d.]+", host):
                ipaddress.IPv4Address(host)
        except ValueError:
            port = 65536
        if port > 65535:
            raise ValueError("expected host:port, like 127.0.0.1:8080, [::1]:8080 or :8080 (every interface)")
        return cls(host, port)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _amount(
    expected: str, units: Mapping[str, float], fits: Callable[[float], bool], kind: type[float] = float
) -> PlainValidator:
    """Reader of a number with an optional unit; a TOML `true` is none, though Python says 1."""

    def read(value: object) -> float:
        written = str(value).strip().lower() if type(value) in (str, int, float) else ""
        found = re.fullmatch(r"(\d+\.?\d*(?:e[-+]?\d+)?)\s*([a-z]*)", written, re.ASCII)
        amount = float(found[1]) * units.get(found[2], math.nan) if found else math.nan
        if not (math.isfinite(amount) and fits(amount)):
            raise ValueError(f"expected {expected}")
        return kind(amount)

    return PlainValidator(read)


_DURATIONS: Final = {"": 1, "ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_SIZES: Final = {"": 1, "b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_SECONDS: Final = _amount("seconds above 0, like 2, 0.5, 15s, 5m, 2h or 7d", _DURATIONS, lambda s: s > 0)
_PAUSE: Final = _amount("0 or more seconds, like 0, 0.5, 15s or 5m", _DURATIONS, lambda s: s >= 0)
_BYTES: Final = _amount("bytes, like 65536, 64KiB or 64MiB", _SIZES, lambda n: n >= 1 and n.is_integer(), int)
_COUNT: Final = _amount("a whole number above 0", {"": 1}, lambda n: n >= 1 and n.is_integer(), int)
_RATE: Final = _amount("a number above 0", {"": 1}, lambda n: n > 0)
_SHARE: Final = _amount("a share from 0 to 1, like 0.1", {"": 1}, lambda n: n <= 1)


def _schedule(value: object) -> tuple[float, ...]:
    written = value.split(",") if isinstance(value, str) else value
    try:
        pauses = tuple(_SECONDS.func(pause) for pause in written)  # type: ignore[attr-defined, call-arg]  # own reader
    except (TypeError, ValueError):
        pauses = ()
    if not pauses or list(pauses) != sorted(pauses):
        raise ValueError("expected ascending pauses in seconds above 0, like 1,2,4,8,16,30")
    return pauses


def _base_url(value: object) -> str:
    """The base URL without trailing slash; its own path and query are kept, as Azure's `?api-version=` needs."""
    try:
        parts = urlsplit(value if isinstance(value, str) and re.fullmatch(r"[!-~]+", value) else "")
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good or parts.username is not None or parts.fragment:
        raise ValueError("expected an absolute http(s) URL without user or fragment, like https://api.openai.com/v1")
    return urlunsplit(parts._replace(path=parts.path.rstrip("/")))


def _store_url(value: object) -> str:
    known = "sqlite:///file.db (sqlite:////absolute/file.db) or memory://"
    if re.match(r"(rediss?|valkeys?)\b", str(value)):
        raise ValueError(f"Redis is not supported yet; expected {known}")
    path = str(value).removeprefix("sqlite:///")
    if value != "memory://" and (path in (value, "", ":memory:") or path.endswith("/") or "\0" in path):
        raise ValueError(f"expected {known}")
    return str(value)


def _secret(value: object) -> SecretStr | None:
    """A credential that fits into a header; a line break from a mangled file is found here, not in a request."""
    if value is None or isinstance(value, SecretStr):
        return value
    if not (isinstance(value, str) and re.fullmatch(r"[!-~]+", value)):
        raise ValueError("expected visible ASCII characters without spaces or line breaks")
    return SecretStr(value)


Seconds = Annotated[float, _SECONDS]
Pause = Annotated[float, _PAUSE]
Bytes = Annotated[int, _BYTES]
Count = Annotated[int, _COUNT]
Secret = Annotated[SecretStr | None, PlainValidator(_secret)]
Listen = Annotated[Address, PlainValidator(Address.parse)]


class _Conflict(ValueError):
    """Settings that are each good and not together; `names` are theirs, the one to blame first."""

    def __init__(self, names: tuple[str, ...], reason: str) -> None:
        super().__init__(reason)
        self.names = names


class Settings(BaseModel):
    """All settings, checked, never changed after start. Seconds are floats, sizes whole bytes.

    `load` makes one from what the user wrote; `Settings(poll_max_age_s=2)` makes one from Python and reads nothing
    else (raises pydantic's ValidationError, a ValueError).
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, hide_input_in_errors=True
    )

    upstream: Annotated[str, PlainValidator(_base_url)] = "https://api.openai.com/v1"
    """Base URL of the Responses API; its own path and query are kept."""
    upstream_api_key: Secret = None
    """Credential sent upstream instead of the client's own; prefer the variable, flags show in process lists."""
    listen: Listen = Address("127.0.0.1", 8080)
    """Address that clients connect to; without a host: every interface."""
    # 9464 is what OpenTelemetry's Prometheus exporters listen on.
    ops_listen: Listen = Address("127.0.0.1", 9464)
    """Address of health, metrics and the operator API."""
    ops_token: Secret = None
    """Bearer token that the ops address asks for; needed where it listens beyond this machine."""
    # Prompts and answers are nobody's business by default, an operator's neither.
    ops_content: bool = False
    """Show the contents of events on the operator API."""
    store: Annotated[str, PlainValidator(_store_url)] = "sqlite:///responses.db"
    """Where responses and their logs are kept: sqlite:///file.db, sqlite:////absolute/file.db or memory://."""
    # kill -9 loses nothing; a power cut is rarer than the throughput that a sync per commit costs.
    durability: Literal["process", "fsync"] = "process"
    """What acknowledged events survive: process (a killed process) or fsync (also a power cut, slower)."""
    # An application that works without the gateway keeps working while its disk is full.
    on_store_failure: Literal["passthrough", "refuse"] = "passthrough"
    """While the store is down: passthrough (serve untracked) or refuse (answer 503)."""

    # Short responses are seen soon, long ones cost two polls a minute.
    poll_schedule_s: Annotated[tuple[float, ...], PlainValidator(_schedule)] = (1, 2, 4, 8, 16, 30)
    """Pauses between polls of a running response; the last one repeats."""
    # Responses created together drift apart, and the schedule is still recognisable.
    poll_jitter: Annotated[float, _SHARE] = 0.1
    """Share by which each pause is varied at random."""
    # Less than any client's own interval (0.5 to 5 s are seen), so one client sees no older state than without us.
    poll_max_age_s: Seconds = 1.0
    """A client's poll is answered without asking upstream while the last snapshot is younger than this."""
    # What documentation and SDK samples do by hand.
    poll_waiting_s: Seconds = 2.0
    """Pause between polls while a client waits with Prefer: wait."""
    # Load balancers commonly cut a silent request at 60 s.
    prefer_wait_max_s: Seconds = 50.0
    """Longest time that a poll with Prefer: wait is held."""
    # 1,500 responses at the schedule's last pause; with more, each is polled less often.
    poll_budget_per_s: Annotated[float, _RATE] = 50.0
    """Polls per second that one route may cause upstream."""
    # Twice what the budget needs when upstream takes a whole second.
    poll_concurrency: Count = 100
    """Polls in flight at the same time."""
    # A retrieve answers in well under a second; a large answer over a poor line takes some.
    poll_timeout_s: Seconds = 30.0
    """Total time of one poll."""
    # The create goes upstream as the client wrote it.
    background_tracking: Literal["poll", "stream"] = "poll"
    """Follow background responses that are not streamed by poll, or by stream (no polls, all are resumable)."""

    # A page that reloads or a process that restarts is back by then; upstream computes, and bills, until it ends.
    linger_s: Pause = 30.0
    """A foreground stream that nobody reads any more is kept this long for a resume."""
    # A quarter of the 60 s of silence after which proxies cut; the most that clients are known to ask for.
    heartbeat_s: Seconds = 15.0
    """A comment is sent to a reader after this much silence."""
    # A mark and an alert, not an end: long reasoning recovers from it.
    patience_s: Seconds = 120.0
    """A streamed response without progress for this long counts as stuck."""
    # A poll sees nothing inside a status, and deep research runs for tens of minutes.
    patience_polled_s: Seconds = 1800.0
    """A polled response that stays in one status for this long counts as stuck."""
    # Nothing is known to run for a day; responses queued for ever are.
    give_up_after_s: Seconds = 86400.0
    """A response that has not ended after this long is no longer tracked."""
    # One 404 can be a replica that is behind: it takes several, and time.
    lost_after_s: Seconds = 30.0
    """A response is lost when upstream says 404 for at least this long..."""
    lost_after_polls: Count = 3
    """...and at least this many times in a row."""

    # A Friday's work can be read in the week after.
    retention_s: Seconds = 604800.0
    """Logs and records are kept this long after the end."""
    # As long as upstream itself keeps what is not to be stored.
    resume_window_s: Seconds = 600.0
    """Logs of responses with store: false are kept this long after the end."""
    # Upstream keeps responses for at least 30 days, and until then an id must still belong to somebody.
    tombstone_s: Seconds = 2592000.0
    """The owner of a response is remembered this long after the end."""
    # Fine enough for resume_window_s, rare enough to be unnoticed.
    purge_interval_s: Seconds = 60.0
    """Pause between removals of what is past its time."""

    # Load balancers need a probe or an endpoint update to notice; until then they send new work.
    drain_delay_s: Pause = 5.0
    """After the signal to stop, readiness is red and work is still accepted for this long."""
    # With the delay 35 s, more than Kubernetes waits by default, hence the hint.
    drain_s: Pause = 30.0
    """Then requests in flight get this long (give the supervisor's grace period more than both together)."""

    # Twice the 5 s of OpenAI's SDKs: their own retry stays the first to decide.
    upstream_connect_s: Seconds = 10.0
    """Time to connect to upstream, TLS included."""
    # A create that is not streamed answers only when it is done; the SDKs wait as long by default.
    upstream_headers_s: Seconds = 600.0
    """Time until upstream's response headers."""
    # Upstream is known to be silent for minutes, and a background stream is re-attached without loss.
    upstream_idle_s: Seconds = 300.0
    """Silence on an upstream stream after which its connection is given up."""
    # The longest pause of the poll schedule: an upstream that is back is noticed by both at the same time.
    upstream_retry_max_s: Seconds = 30.0
    """Longest pause between attempts to re-attach to an upstream stream."""
    # A reader that takes nothing for a minute is gone; it can resume.
    write_timeout_s: Seconds = 60.0
    """A client that takes no bytes for this long is dropped."""

    # Inline files and images reach tens of megabytes; a tracked body is held in memory, others stream through.
    body_limit_bytes: Bytes = 64 * 2**20
    """Largest body of a create that is tracked; others are not limited."""
    # The usual 8 KiB is too small for the cookies and tokens that identity proxies add.
    header_limit_bytes: Bytes = 64 * 2**10
    """Largest head of a request or an answer."""
    # The last event of a stream repeats the whole response, inline images included.
    event_limit_bytes: Bytes = 64 * 2**20
    """Largest single event of a stream."""
    # Minutes of one response's events; a store that is away longer makes upstream wait instead.
    pump_buffer_bytes: Bytes = 8 * 2**20
    """Events of one response held while the store is down."""
    # Several of the largest events: nothing real comes near, a runaway stream does.
    log_limit_bytes: Bytes = 256 * 2**20
    """Largest log of one response."""
    # Thousands of ordinary events: a reader that keeps up never asks the store.
    tail_cache_bytes: Bytes = 2**20
    """Recent part of a live log kept in memory."""
    # Ten times what one process was made for: a limit that is met only when something is wrong.
    max_live: Count = 20000
    """Live tracked responses; a create beyond them gets a 503."""
    max_followers: Count = 20000
    """Clients reading streams at the same time; one beyond them gets a 503."""
    # A connection to each live response and each follower, and some to spare.
    open_files: Count = 65536
    """File descriptors that the process asks for at start."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe log lines written: debug, info, warning or error."""
    log_format: Literal["auto", "json", "console"] = "auto"
    """How log lines are written: json, console, or auto (console on a terminal)."""
    # Upstream ignores the header or joins the trace; either is what a tracing operator wants.
    trace_propagation: bool = True
    """Send traceparent upstream."""
    # Clients are the operator's own applications, and one trace from caller to answer is the point.
    trust_traceparent: Literal["parent", "link", "ignore"] = "parent"
    """A client's traceparent becomes the parent of our spans, a link, or is ignored: parent, link or ignore."""
    # Each one multiplies the time series.
    max_models: Count = 50
    """Model names told apart in metrics; more are counted as other."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.upstream_api_key and not self.listen.is_loopback:
            reason = "clients cannot be authenticated yet, so with upstream_api_key anyone could spend that key"
            raise _Conflict(("listen",), f"{reason}; expected a loopback address, like 127.0.0.1:8080")
        if not self.ops_token and not self.ops_listen.is_loopback:
            raise _Conflict(("ops_listen",), "beyond this machine ops_token is needed; expected it, or 127.0.0.1:9464")
        if self.tombstone_s < self.retention_s:
            reason = f"expected tombstone_s ({self.tombstone_s:.0f}) to be no less than retention_s"
            raise _Conflict(("tombstone_s", "retention_s"), f"{reason} ({self.retention_s:.0f})")
        return self

    @property
    def store_path(self) -> Path | None:
        """The SQLite file, or None for the memory store."""
        return None if self.store == "memory://" else Path(self.store.removeprefix("sqlite:///"))

    def public(self) -> dict[str, Any]:
        """All settings as JSON values, for people to read: a secret that is set is `***`."""
        return {
            name: "***" if isinstance(value, SecretStr) else str(value) if isinstance(value, Address) else value
            for name, value in self
        }
