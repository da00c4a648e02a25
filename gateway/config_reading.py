"""From what a user wrote to values: the readers of single settings, and the three places that settings come from.

Rule: pure but for opening the named file; knows no setting by name, no vendor library, nothing else of the gateway.
Every reader takes a text (flag, variable) or a TOML value and raises ValueError with the words `expected ...`.
Who calls it: `gateway.config` alone, which gives these names on.
"""

import difflib
import ipaddress
import json
import math
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self, TypeVar
from urllib.parse import urlsplit, urlunsplit

from gateway.config_store import without_password

T = TypeVar("T")

PREFIX: Final = "GATEWAY_"
FILE_VARIABLE: Final = "GATEWAY_CONFIG"
OPS_URL_VARIABLE: Final = "GATEWAY_OPS_URL"
_NO_SETTINGS: Final = (FILE_VARIABLE, OPS_URL_VARIABLE)
# In a namespace with a service called "gateway" (or "gateway-x") Kubernetes puts these into every pod.
_KUBERNETES: Final = re.compile(r"GATEWAY_(\w+_)?(SERVICE_(HOST|PORT\w*)=|PORT_\d+_\w+=|PORT=(tcp|udp|sctp)://)")


class SettingsError(ValueError):
    """A setting that cannot be used. Its text is one line: the place as the user wrote it, and what is accepted."""

    def __init__(self, line: str) -> None:
        # Keys and paths are the user's too, and may hold a line break.
        super().__init__("".join(char if char.isprintable() else "?" for char in line))


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen. An empty `host` is every interface (as for asyncio), port 0 any free port."""

    host: str
    port: int

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read `127.0.0.1:8080`, `localhost:8080`, `[::1]:8080` or `:8080`; an Address stays one."""
        if isinstance(value, cls):
            return value
        found = re.fullmatch(r"(?:\[([^\]]+)\]|([\w.-]*)):(\d{1,5})", str(value), re.ASCII)
        try:
            if found is None or int(found[3]) > 65535:
                raise ValueError
            host = str(ipaddress.IPv6Address(found[1])) if found[1] else found[2]
            if re.fullmatch(r"[\d.]+", host):
                ipaddress.IPv4Address(host)
        except ValueError:
            expected = "expected host:port, like 127.0.0.1:8080, [::1]:8080 or :8080 (every interface)"
            raise ValueError(expected) from None
        return cls(host, int(found[3]))

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _amount(expected: str, units: Mapping[str, float], fits: Callable[[float], bool]) -> Callable[[object], float]:
    """Reader of a number with an optional unit. It reads text, so that a TOML `true`, for Python a 1, is refused."""

    def read(value: object) -> float:
        found = re.fullmatch(r"(\d+\.?\d*(?:e[-+]?\d+)?)\s*([a-z]*)", str(value).strip().lower(), re.ASCII)
        amount = float(found[1]) * units.get(found[2], math.nan) if found else math.nan
        if not (math.isfinite(amount) and fits(amount)):
            raise ValueError(f"expected {expected}")
        return amount

    return read


def _whole(read: Callable[[object], float]) -> Callable[[object], int]:
    return lambda value: int(read(value))


# A browser leaves the port out where it is the scheme's own.
_ORIGIN: Final = re.compile(
    r"(?!http:.*:80$|https:.*:443$)[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:]+\])(:\d{1,5})?", re.ASCII
)
# What Fernet takes, in either alphabet of base64.
_FERNET_KEY: Final = re.compile(r"[A-Za-z0-9+/_-]{43}=", re.ASCII)
_DURATIONS: Final = {"": 1, "ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_SIZES: Final = {"": 1, "b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_PLAIN: Final = {"": 1}

seconds: Final = _amount("seconds above 0, like 2, 0.5, 15s, 5m, 2h or 7d", _DURATIONS, lambda s: s > 0)
short: Final = _amount("seconds from 1 to a day, like 60, 5m or 1h", _DURATIONS, lambda s: 1 <= s <= 86400)
pause: Final = _amount("0 or more seconds, like 0, 0.5, 15s or 5m", _DURATIONS, lambda s: s >= 0)
_money: Final = _amount("a price of 0 or more", _PLAIN, lambda n: n >= 0)
rate: Final = _amount("a number above 0", _PLAIN, lambda n: n > 0)
share: Final = _amount("a share from 0 to 1, like 0.1", _PLAIN, lambda n: n <= 1)
count: Final = _whole(_amount("a whole number above 0", _PLAIN, lambda n: n >= 1 and n.is_integer()))
size: Final = _whole(
    _amount("bytes, like 65536, 64KiB or 64MiB", _SIZES, lambda n: n >= 1 and n.is_integer()),
)


def schedule(value: object) -> tuple[float, ...]:
    """Pauses in seconds, from `1,2,4` or a TOML array."""
    written = value.split(",") if isinstance(value, str) else value
    try:
        pauses = tuple(map(seconds, written)) if isinstance(written, list | tuple) else ()
    except ValueError:
        pauses = ()
    if not pauses or list(pauses) != sorted(pauses):
        raise ValueError("expected ascending pauses in seconds above 0, like 1,2,4,8,16,30")
    return pauses


def origins(value: object) -> tuple[str, ...]:
    """Origins as browsers send them, from `https://a.example,http://localhost:3000` or a list; or `*`, or `none`."""
    if value == "none":
        return ()
    written = value.split(",") if isinstance(value, str) else value
    found = tuple(str(origin).strip().lower() for origin in written) if isinstance(written, list | tuple) else ("",)
    if found != ("*",) and not all(_ORIGIN.fullmatch(origin) for origin in found):
        raise ValueError("expected origins without path or default port, like https://app.example, or *, or none")
    return found


Pairs = tuple[tuple[str, T], ...]
"""Values by model pattern, in the order in which they are tried; `*` is any text."""


def by_model(read: Callable[[object], T], example: str) -> Callable[[object], Pairs[T]]:
    """Reader of values by model: `gpt-5*=1m,*-pro=10m`, a TOML table with the patterns as keys, or `none`."""

    def pairs(value: object) -> Pairs[T]:
        written: object = value
        if isinstance(value, str):
            parts = value.split(",") if value.strip() not in ("", "none") else []
            written = [(pattern, one) for pattern, _, one in (part.rpartition("=") for part in parts)]
        elif isinstance(value, dict):
            written = list(value.items())
        try:
            found = tuple((str(pattern).strip(), read(one)) for pattern, one in written)  # type: ignore[attr-defined]
            if all(pattern for pattern, _ in found):
                return found
        except (ValueError, TypeError):
            pass
        raise ValueError(f"expected values by model pattern, like {example}, or none")

    return pairs


@dataclass(frozen=True, slots=True)
class Price:
    """What a million tokens cost, in whatever currency: of input, of input that was cached, of output."""

    input: float
    cached: float
    output: float

    def __str__(self) -> str:
        return f"{self.input:g}/{self.cached:g}/{self.output:g}"


def price(value: object) -> Price:
    """Read `1.25/0.125/10`, or a TOML table with `input`, `cached` and `output`; a Price stays one."""
    if isinstance(value, Price):
        return value
    if isinstance(value, dict) and value.keys() == {"input", "cached", "output"}:
        return Price(*(_money(value[name]) for name in ("input", "cached", "output")))
    parts = value.split("/") if isinstance(value, str) else []
    if len(parts) != 3:
        raise ValueError("expected input/cached/output")
    return Price(*map(_money, parts))


def base_url(value: object) -> str:
    """An absolute http(s) URL without trailing slash; its path and query stay, as Azure's `?api-version=` needs."""
    try:
        parts = urlsplit(value if isinstance(value, str) and re.fullmatch(r"[!-~]+", value) else "")
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good or parts.username is not None or parts.fragment:
        raise ValueError("expected an absolute http(s) URL without user or fragment, like https://api.openai.com/v1")
    return urlunsplit(parts._replace(path=parts.path.rstrip("/")))


def operators_url(written: str | None, ops_listen: Address) -> str:
    """Where operators find a gateway: as it was `written`, else where `ops_listen` is found on this machine.

    Raises SettingsError.
    """
    if not written:
        host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(ops_listen.host)
        return f"http://{Address(host or ops_listen.host, ops_listen.port)}"
    try:
        return base_url(written)
    except ValueError as error:
        raise SettingsError(f"{OPS_URL_VARIABLE}={written}: {error}") from None


def credential(value: object) -> str:
    """A secret that fits into a header: a line break from a mangled file is found here, not in a request."""
    if not (isinstance(value, str) and re.fullmatch(r"[!-~]+", value)):
        raise ValueError("expected visible ASCII characters without spaces or line breaks")
    return value


def sealing_keys(value: object) -> tuple[str, ...]:
    """Keys of 32 bytes in base64, from a text with commas, spaces or line breaks between, or a list; or `none`."""
    if value == "none":
        return ()
    written = re.split(r"[,\s]+", value.strip()) if isinstance(value, str) else value
    found = tuple(map(str, written)) if isinstance(written, list | tuple) else ("",)
    if not all(_FERNET_KEY.fullmatch(key) for key in found):
        raise ValueError("expected keys of 32 random bytes in base64, as `openssl rand -base64 32` makes them")
    return found


def secret_file(path: Path) -> str:
    """The text of a file that is not empty. Its content is quoted nowhere."""
    try:
        text = path.read_text(encoding="ascii")
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from None
    except ValueError:
        text = ""
    if not text.strip():
        raise ValueError("expected a file of ASCII text that is not empty")
    return text


@dataclass(frozen=True, slots=True)
class Given:
    """A value that a user gave, between the words that lead back to where it was written."""

    value: Any
    before: str
    after: str = ""

    def place(self, *, secret: bool) -> str:
        """The place on one line, with the value cut at 100 characters; of a secret or a password in a URL, `***`."""
        shown = "***" if secret else without_password(json.dumps(self.value, default=str))
        return f"{self.before}{shown if len(shown) <= 100 else shown[:97] + '...'}{self.after}"


def flag(name: str) -> str:
    """`poll_max_age_s` as the user types it: `--poll-max-age-s`."""
    return "--" + name.replace("_", "-")


def variable(name: str) -> str:
    """`poll_max_age_s` as a variable: `GATEWAY_POLL_MAX_AGE_S`."""
    return PREFIX + name.upper()


def given(
    names: Iterable[str], flags: Mapping[str, str], environ: Mapping[str, str], config_file: Path | None
) -> dict[str, Given]:
    """What was written for `names`, the strongest place only: flags (by name), then variables, then the file.

    An empty variable counts as not set, as compose files write `${KEY:-}`. Raises SettingsError for a file that cannot
    be read and, whatever its value, for a name in any of the three places that no setting has.
    """
    known = tuple(names)
    variables = {variable(name): name for name in known}
    found: dict[str, Given] = {}

    chosen_by = f"--config {config_file}"
    if config_file is None and environ.get(FILE_VARIABLE):
        config_file = Path(environ[FILE_VARIABLE])
        chosen_by = f"{FILE_VARIABLE}={config_file}"
    if config_file is not None:
        for key, value in _parsed(config_file, chosen_by).items():
            if key not in known:
                raise _unknown(f"{key} in {config_file}", key, known)
            found[key] = Given(value, f"{key} = ", f" in {config_file}")
    for key, text in environ.items():
        if not key.startswith(PREFIX) or key in _NO_SETTINGS or not text or _KUBERNETES.match(f"{key}={text}"):
            continue
        if key not in variables:
            raise _unknown(key, key.removeprefix(PREFIX), known, variable)
        found[variables[key]] = Given(text, f"{key}=")
    for name, text in flags.items():
        if name not in known:
            raise _unknown(flag(name), name, known, flag)
        found[name] = Given(text, f"{flag(name)} ")
    return found


def _parsed(config_file: Path, chosen_by: str) -> dict[str, Any]:
    try:
        return tomllib.loads(config_file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{chosen_by}: cannot be read ({error.strerror}); expected a TOML file") from None
    except ValueError as error:
        raise SettingsError(f"{chosen_by}: not valid TOML ({error})") from None


def _unknown(place: str, name: str, known: Iterable[str], spelled: Callable[[str], str] = str) -> SettingsError:
    """`spelled` writes a known name as it is written in this place."""
    close = difflib.get_close_matches(name.lower(), known, n=1)
    hint = f"did you mean {spelled(close[0])}?" if close else "expected one that serve --help lists"
    return SettingsError(f"{place}: no such setting; {hint}")
