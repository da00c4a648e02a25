"""Every setting of the gateway in one typed class, and the three places a user can write one in.

A setting is a flag (`--poll-max-age-s 2`), an environment variable (`GATEWAY_POLL_MAX_AGE_S=2`) or a key of a TOML
file (`poll_max_age_s = 2`), in that order of precedence. Flags, variables, help and README's table all come from
`Settings`: to add a setting, add a field; the string under it is what the user reads.

Rule: the only reader of `os.environ`, with `config_types` the only importer of pydantic; the `config_*` modules and it
know nothing of the rest of the gateway, so every floor may read it. pydantic-settings is left out on purpose: its
sources skip a file that is missing, do not notice an unknown variable and do not say which place a bad value came from.
"""

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, PlainValidator, SecretStr, ValidationError, model_validator

from gateway import config_conflicts as conflicts
from gateway import config_reading as reading
from gateway import config_writing as writing
from gateway.config_conflicts import Conflict
from gateway.config_reading import Address, Price, SettingsError
from gateway.config_store import StoreUrl
from gateway.config_types import (
    Bytes,
    Count,
    Listen,
    Pause,
    Prices,
    SealingKeyFile,
    SealingKeys,
    Seconds,
    SecondsByModel,
    Secret,
    plain,
)

__all__ = [
    "Address",
    "Price",
    "Settings",
    "SettingsError",
    "add_flags",
    "environment",
    "flags_of",
    "load",
    "operators_url",
    "table",
]


class Settings(BaseModel):
    """All settings, checked, and not changed after the start. Durations are float seconds, sizes whole bytes.

    `load` makes one from what a user wrote. `Settings(poll_max_age_s=2)` makes one in Python and reads nothing else; it
    raises pydantic's ValidationError (a ValueError).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, hide_input_in_errors=True)

    upstream: Annotated[str, PlainValidator(reading.base_url)] = "https://api.openai.com/v1"
    """Base URL of the Responses API; its own path and query are kept."""
    upstream_api_key: Secret = None
    """Credential sent upstream instead of the client's; prefer the variable, a flag shows in process lists."""
    listen: Listen = Address("127.0.0.1", 8080)
    """Address that clients connect to; without a host: every interface."""
    # 9464 is where OpenTelemetry's Prometheus exporters listen.
    ops_listen: Listen = Address("127.0.0.1", 9464)
    """Address of health, metrics and the operator API."""
    # As many as there are cores is enough: each one uses one.
    workers: Count = 1
    """Processes that serve clients on one address, over a shared store; their ops ports go up from ops_listen's."""
    ops_token: Secret = None
    """Bearer token that the ops address asks for; needed where it listens beyond this machine."""
    # Operating a service does not need its users' prompts and answers.
    ops_content: bool = False
    """Show the contents of events on the operator API."""

    cors_origins: Annotated[tuple[str, ...], PlainValidator(reading.origins)] = ()
    """Origins of web pages that may use the gateway (with commas between), or *; none: upstream's CORS headers pass."""
    # A page opens its stream at once; a reload, or a line that is back, gets a new one from the page's server.
    ticket_s: Annotated[float, PlainValidator(reading.short)] = 300.0
    """A ticket, which stands for a credential in a browser's URL, begins connections for this long; a day at most."""

    store: Annotated[StoreUrl, PlainValidator(StoreUrl.parse)] = StoreUrl("sqlite:///responses.db")
    """Where responses and their logs are kept: sqlite:///file.db, redis://host:6379/0 (which others share) or memory://."""
    # A killed process is what happens daily, and costs no sync per commit to survive.
    durability: Literal["process", "fsync"] = "process"
    """What acknowledged events survive in a file: process (a killed process) or fsync (also a power cut, slower)."""
    # A server that is alive answers in milliseconds; one that is failed over takes seconds.
    store_timeout_s: Seconds = 5.0
    """Redis counts as down when it has not answered for this long."""
    # For trying things out: hours of it, on any machine.
    memory_limit_bytes: Bytes = 2**30
    """Most that memory:// keeps; beyond it the oldest responses that have ended go first."""
    # An application that works without the gateway goes on working while the gateway's disk is full.
    on_store_failure: Literal["passthrough", "refuse"] = "passthrough"
    """While the store is down: passthrough (serve untracked) or refuse (answer 503)."""
    # A pause of the process, or of the network, that is shorter costs nothing; a longer one looks like its death.
    lease_s: Seconds = 10.0
    """What one of several processes on a store holds is taken up by another when it was not heard of for this long."""
    # A credential outlives no response in the store, and no process, unless its operator wants it to.
    sealing_keys: SealingKeys = ()
    """Keys that seal owners' credentials in the store, for a restart to go on with; the first seals, each unseals."""
    sealing_key_file: SealingKeyFile = None
    """File with such keys, one a line, instead."""

    # Short responses are seen soon, long ones cost two polls a minute.
    poll_schedule_s: Annotated[tuple[float, ...], PlainValidator(reading.schedule)] = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
    """Pauses between polls of a running response; the last one repeats."""
    # Enough that responses created together drift apart, little enough that the schedule is recognisable.
    poll_jitter: Annotated[float, PlainValidator(reading.share)] = 0.1
    """Share by which each pause is varied at random."""
    # At most the pace of usual clients (0.5 to 5 s), so that the gateway shows them nothing noticeably older.
    poll_max_age_s: Seconds = 1.0
    """A client's poll is answered without asking upstream while the last snapshot is younger than this."""
    # The pace at which documentation and samples poll by hand.
    poll_waiting_s: Seconds = 2.0
    """Pause between polls while a client waits with Prefer: wait."""
    # Load balancers commonly cut a silent request after 60 s.
    prefer_wait_max_s: Seconds = 50.0
    """Longest time that a poll with Prefer: wait is held."""
    # As long as OpenAI's SDKs wait for an answer.
    create_wait_max_s: Seconds = 600.0
    """Longest time that a background create with Prefer: wait is held."""
    # The create is answered as upstream answers it.
    create_wait_s: Pause = 0.0
    """A background create without stream is held until its response ends, for so long at most; Prefer: wait wins."""
    # 3,000 responses at the schedule's last pause; with more, each is polled less often.
    poll_budget_per_s: Annotated[float, PlainValidator(reading.rate)] = 100.0
    """Polls per second that one route may cause upstream, besides those that clients ask for."""
    # The whole budget even when upstream takes two seconds to answer.
    poll_concurrency: Count = 100
    """Polls in flight at the same time."""
    # A retrieve answers in well under a second; a large answer on a poor line takes some.
    poll_timeout_s: Seconds = 30.0
    """Total time of one poll."""
    # The create goes upstream as the client wrote it.
    background_tracking: Literal["poll", "stream"] = "poll"
    """Follow background responses that are not streamed by poll, or by stream (no polls, each resumable)."""

    # A restarted process or reloaded page is back by then; until then upstream computes, and bills.
    linger_s: Pause = 30.0
    """A foreground response that nobody waits for any more goes on this long, for a resume or a retry."""
    # An evaluation or a report of an hour is worth its tokens; what is forgotten must end.
    linger_max_s: Pause = 3600.0
    """Longest linger that a client can ask for with Prefer: linger."""
    # A quarter of the 60 s of silence after which load balancers commonly cut.
    heartbeat_s: Seconds = 15.0
    """A reader of a stream gets a comment after this much silence."""
    # Upstream sends none.
    stream_done: bool = False
    """End streams with data: [DONE], as other servers do; Prefer: done and Prefer: done=no win."""
    # Clients whose timers run from event to event give up after 120 s (LangChain) or 300 s (Codex).
    keepalive_s: Pause = 60.0
    """A reader gets an event of type keepalive, as OpenAI itself sends it, after this much silence; 0: never."""
    # A mark and an alert, not an end: long reasoning recovers from it.
    patience_s: Seconds = 120.0
    """A streamed response without an event for this long counts as stuck; so does any that cannot be asked about."""
    # A tool that it calls may search for minutes without a word.
    patience_by_model: SecondsByModel = (("*deep-research*", 600.0),)
    """The same for models that match a pattern, the first that does; * is any text."""
    # A poll sees little of what happens inside a status, and a long answer stays in one for tens of minutes.
    patience_polled_s: Seconds = 1800.0
    """A polled response whose status, output and usage stay as they are for this long counts as stuck."""
    # Research takes tens of minutes of which a poll may see nothing.
    patience_polled_by_model: SecondsByModel = (("*deep-research*", 7200.0),)
    """The same for models that match a pattern, the first that does."""
    # Long reasoning recovers, and what to do about the rest is not for a default to decide.
    on_stuck: Literal["none", "cancel", "abandon"] = "none"
    """What is done about a stuck response: none, cancel (upstream) or abandon (it is no longer tracked)."""
    # What upstream says that it keeps of a background response that is not stored.
    upstream_keeps_s: Seconds = 600.0
    """Upstream forgets a background response with store: false when it has not been asked for this long."""
    # Longer than any response is known to run; some are queued for ever.
    give_up_after_s: Seconds = 86400.0
    """A response that has not ended after this long is no longer tracked."""
    # One 404 may be a replica of upstream that is behind: it takes several, and time.
    lost_after_s: Seconds = 30.0
    """A response is lost when upstream has answered 404 for this long, and lost_after_polls times in a row."""
    lost_after_polls: Count = 3
    """How many 404s in a row it takes, besides lost_after_s."""

    # A Friday's work can be read throughout the week after.
    retention_s: Seconds = 604800.0
    """Logs and records are kept this long after the end."""
    # About as long as upstream itself keeps what it was asked not to store.
    resume_window_s: Seconds = 600.0
    """Logs of responses with store: false are kept this long after the end."""
    # Upstream keeps responses for 30 days: so long an id can still be asked for, and must belong to its owner.
    tombstone_s: Seconds = 2592000.0
    """The owner of a response is remembered this long after the end."""
    # Rare beside resume_window_s, and often enough that each removal is small.
    purge_interval_s: Seconds = 60.0
    """Pause between removals of what is past its time."""

    # Load balancers go on sending until a probe or an endpoint update reaches them.
    drain_delay_s: Pause = 5.0
    """After the signal to stop, readiness is red and new work still accepted for this long."""
    # With drain_delay_s within the 30 s that Kubernetes and Compose users commonly grant a process to stop.
    drain_s: Pause = 20.0
    """Then requests in flight get this long; whoever stops the process must wait for more than both together."""

    # Twice the 5 s of OpenAI's SDKs, as a gateway may be further away or behind a slow resolver.
    upstream_connect_s: Seconds = 10.0
    """Time to connect to upstream, TLS included."""
    # A create that is not streamed answers only when it is done; OpenAI's SDKs wait as long.
    upstream_headers_s: Seconds = 600.0
    """Time until upstream's answer begins."""
    # Reasoning may be silent for minutes, and a foreground stream cannot be re-attached: OpenAI's SDKs wait as long.
    upstream_idle_s: Seconds = 600.0
    """Silence on an upstream stream after which its connection is given up."""
    # The last pause of the poll schedule: an upstream that is back is noticed as soon either way.
    upstream_retry_max_s: Seconds = 30.0
    """Longest pause between attempts to re-attach to an upstream stream."""
    # Whoever takes nothing for a minute is gone, or can resume.
    write_timeout_s: Seconds = 60.0
    """A client that takes no bytes for this long is dropped."""

    # Inline files and images reach tens of megabytes; only a tracked body is held in memory.
    body_limit_bytes: Bytes = 64 * 2**20
    """Largest body of a create that is tracked; other bodies are not limited."""
    # The usual 8 KiB is too small for the cookies and tokens that identity proxies add.
    header_limit_bytes: Bytes = 64 * 2**10
    """Largest head of a request or an answer."""
    # The last event repeats the whole response, inline images included.
    event_limit_bytes: Bytes = 64 * 2**20
    """Largest single event of a stream."""
    # More than most responses have in all: a short failure of the store slows nobody.
    pump_buffer_bytes: Bytes = 8 * 2**20
    """Events of one response that are held while the store is down."""
    # Four of the largest events: only a stream that runs away comes near.
    log_limit_bytes: Bytes = 256 * 2**20
    """Largest log of one response."""
    # Thousands of ordinary events: readers that keep up never ask the store.
    tail_cache_bytes: Bytes = 2**20
    """Recent part of a live log that is kept in memory."""
    # Far above what one process should carry: a limit that is met when something is wrong.
    max_live: Count = 20000
    """Live tracked responses; a create beyond them is answered 503."""
    max_followers: Count = 20000
    """Clients reading streams at the same time; one beyond them is answered 503."""
    # A connection for each live response and each follower, and room for the rest.
    open_files: Count = 65536
    """File descriptors that the process asks for at start."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe log lines that are written: debug, info, warning or error."""
    log_format: Literal["auto", "json", "console"] = "auto"
    """How log lines are written: json, console, or auto (console on a terminal)."""
    # An upstream that knows the header joins the trace, any other ignores it.
    trace_propagation: bool = True
    """Send traceparent upstream."""
    # One trace from caller to answer is the point, and clients are the operator's own applications.
    trust_traceparent: Literal["parent", "link", "ignore"] = "parent"
    """A client's traceparent is the parent of the gateway's spans, or a link of them, or is ignored (ignore)."""
    # More than an application that records each of its traces makes; a client that floods the collector has to stop.
    trust_sampled_per_s: Annotated[float, PlainValidator(reading.rate)] = 100.0
    """So often a second a client's sampled flag is believed; beyond that the sampler decides as if there were none."""
    # Prompts and answers are their users'; tracing backends are read by many and keep long.
    capture_content: bool = False
    """Put prompts and answers on spans."""
    # What most backends show of an attribute.
    capture_limit_bytes: Bytes = 16 * 2**10
    """Largest captured prompt, answer or list of tools; beyond it texts are shortened."""
    # Each one multiplies the time series.
    max_models: Count = 50
    """Model names told apart in metrics; further ones count as other."""
    # What a token costs depends on who asks, and changes.
    prices: Prices = ()
    """What a million tokens cost, by model pattern: input/cached/output in any currency; none: cost is not counted."""
    # They double what the gateway's own metrics say, and their names still change.
    genai_metrics: Literal["off", "v1.41", "main"] = "off"
    """Also show metrics by the names of OpenTelemetry's GenAI conventions, as of v1.41 or of their main branch."""

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        conflicts.check(self)
        return self

    @property
    def all_sealing_keys(self) -> tuple[str, ...]:
        """The keys themselves, from wherever they came; the first one seals."""
        keys = self.sealing_key_file.keys if self.sealing_key_file else self.sealing_keys
        return tuple(key.get_secret_value() for key in keys)

    def public(self) -> dict[str, Any]:
        """All settings as JSON values for people to read; a secret that is set is `***`."""
        return {name: plain(value) for name, value in self}


def load(
    flags: Mapping[str, str], *, environ: Mapping[str, str] | None = None, config_file: Path | None = None
) -> Settings:
    """The settings as written: `flags` (by field name, see `flags_of`), then variables, then the TOML file.

    `environ` is the process's if not given, `config_file` the one that GATEWAY_CONFIG names. Raises SettingsError.
    """
    environ = os.environ if environ is None else environ
    given = reading.given(Settings.model_fields, flags, environ, config_file)
    try:
        return Settings.model_validate({name: one.value for name, one in given.items()})
    except ValidationError as invalid:
        error = invalid.errors(include_url=False)[0]
    context = error.get("ctx", {})
    problem = context.get("error")
    names = problem.names if isinstance(problem, Conflict) else (str(error["loc"][0]),)
    name = next(name for name in names if name in given)
    reason = problem or ("expected true or false" if "bool" in error["type"] else f"expected {context['expected']}")
    raise SettingsError(f"{given[name].place(secret=_is_secret(name))}: {reason}")


def _is_secret(name: str) -> bool:
    return Settings.model_fields[name].annotation in (SecretStr | None, tuple[SecretStr, ...])


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add `--config FILE` and one flag per setting; the namespace then holds only those that were typed."""
    writing.add_flags(parser, Settings.model_fields)


def environment() -> Mapping[str, str]:
    """The process's environment, for the standard OTEL_* variables: those are not the gateway's own."""
    return os.environ


def operators_url(settings: Settings, *, environ: Mapping[str, str] | None = None) -> str:
    """Where commands find a running gateway: GATEWAY_OPS_URL, else as `ops_listen` says. Raises SettingsError."""
    written = (os.environ if environ is None else environ).get(reading.OPS_URL_VARIABLE)
    return reading.operators_url(written, settings.ops_listen)


def flags_of(namespace: argparse.Namespace) -> dict[str, str]:
    """The settings among the parsed arguments, for `load`: field name to typed text (a switch: `True`, `False`)."""
    typed = vars(namespace)
    return {name: str(typed[name]) for name in Settings.model_fields if name in typed}


def table() -> str:
    """The settings as a Markdown table, as README shows it."""
    return writing.table(Settings.model_fields)


if __name__ == "__main__":
    sys.stdout.write(table() + "\n")
