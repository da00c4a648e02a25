"""Where responses are kept: the setting `store`, and what it says.

    memory://
    sqlite:///relative.db                                  sqlite:////absolute.db
    redis://user:password@host:6379/0                      rediss:// with TLS; valkey://, valkeys:// are the same
    unix:///run/redis.sock?db=0                            Redis on a socket
    redis+sentinel://user:password@host:26379,host:26379/mymaster/0         rediss+sentinel://
    redis+cluster://user:password@host:6379,host:6379                       rediss+cluster://

The spelling of Redis is that of redis-py and, for several hosts, of the Python library `limits`. Rule: a part of the
settings, which knows nothing of the rest of the gateway.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qsl, unquote, urlsplit

OPTIONS = (
    *("prefix", "db", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_password", "ssl_check_hostname"),
    *("sentinel_username", "sentinel_password"),
)
"""What may follow the `?`: how keys begin, the database of a socket, files of TLS, who asks Sentinels."""
_SCHEME = re.compile(r"(?P<vendor>redis|valkey|unix)(?P<tls>s?)(\+(?P<kind>sentinel|cluster))?")
_PORTS = {"sentinel": 26379}
_YES, _NO = frozenset({"true", "yes", "1"}), frozenset({"false", "no", "0"})


def without_password(url: str) -> str:
    """A URL for people to read."""
    return re.sub(r"(?<=password=)[^&\"]*", "***", re.sub("//.*@", "//***@", url))


class StoreUrl(str):
    """The setting: a text, and what it says."""

    __slots__ = ()

    @classmethod
    def parse(cls, value: object) -> "StoreUrl":
        """Raises ValueError, which says what is expected."""
        written = cls(value)
        if written.kind == "redis":
            RedisUrl.parse(written)
        elif written.kind == "sqlite":
            path = written.removeprefix("sqlite:///")
            if path in (written, "", ":memory:") or path.endswith("/") or "\0" in path:
                raise ValueError(
                    "expected sqlite:///file.db (sqlite:////absolute/file.db), redis://host:6379/0 or memory://"
                )
        return written

    @property
    def kind(self) -> Literal["memory", "sqlite", "redis"]:
        """Which store it is."""
        if self == "memory://":
            return "memory"
        return "redis" if _SCHEME.fullmatch(self.partition("://")[0]) else "sqlite"

    @property
    def path(self) -> Path | None:
        """The SQLite file, where it is one."""
        return Path(self.removeprefix("sqlite:///")) if self.kind == "sqlite" else None

    @property
    def shown(self) -> str:
        """For people to read."""
        return without_password(self)


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """The parts of a URL. `kind`: server, sentinel or cluster. `path`: a socket. `service`: the master's name."""

    kind: str
    hosts: tuple[tuple[str, int], ...]
    tls: bool = False
    path: str | None = None
    service: str | None = None
    username: str | None = None
    password: str | None = None
    database: int = 0
    options: tuple[tuple[str, str], ...] = ()

    def option(self, name: str) -> str | None:
        """What follows the `?` under a name."""
        return dict(self.options).get(name)

    @property
    def checks_hostname(self) -> bool:
        """The certificate has to be for the host."""
        return self.option("ssl_check_hostname") not in _NO

    @classmethod
    def parse(cls, url: str) -> "RedisUrl":
        """Raises ValueError, which says what is expected."""
        scheme = _SCHEME.fullmatch(url.partition("://")[0])
        if scheme is None or not re.fullmatch(r"[!-~]+", url) or "#" in url:
            raise ValueError("expected a URL of Redis, like redis://host:6379/0")
        kind, parts = scheme["kind"] or "server", urlsplit(url)
        options = _options(parts.query)
        if scheme["vendor"] == "unix":
            if parts.netloc or scheme["tls"] or kind != "server" or len(parts.path) < 2:
                raise ValueError("expected the path of a socket, like unix:///run/redis.sock")
            return cls(
                kind, (), path=unquote(parts.path), database=_database(dict(options).get("db", "0")), options=options
            )
        user, _, places = parts.netloc.rpartition("@")
        name, _, password = user.partition(":")
        hosts = tuple(_host(place, _PORTS.get(kind, 6379)) for place in places.split(","))
        if kind == "server" and len(hosts) > 1:
            raise ValueError(
                "expected one host; several are redis+sentinel://host,host/mymaster or redis+cluster://host,host"
            )
        service, database = _path(kind, parts.path)
        return cls(
            *(kind, hosts, scheme["tls"] == "s", None, service),
            *(unquote(name) or None, unquote(password) or None, database, options),
        )


def _options(query: str) -> tuple[tuple[str, str], ...]:
    options = tuple(parse_qsl(query, keep_blank_values=True))
    for name, value in options:
        if name not in OPTIONS:
            raise ValueError(f"expected after the ? only {', '.join(OPTIONS)}")
        if name == "ssl_check_hostname" and value not in _YES | _NO:
            raise ValueError("expected ssl_check_hostname=true or =false")
    return options


def _host(place: str, port: int) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{place}")
        host, port = parts.hostname or "", parts.port or port
    except ValueError:
        host = ""
    if not host:
        raise ValueError("expected host:port, like redis://host:6379/0")
    return host, port


def _path(kind: str, path: str) -> tuple[str | None, int]:
    """Service and database."""
    parts = [unquote(part) for part in path.split("/")[1:] if part]
    if kind == "sentinel":
        if not parts:
            raise ValueError(
                "expected the name that Sentinels have for the master, like redis+sentinel://host/mymaster"
            )
        return parts[0], _database("/".join(parts[1:]) or "0")
    if kind == "cluster" and parts not in ([], ["0"]):
        raise ValueError("expected no database: a cluster has one")
    return None, _database("/".join(parts) or "0")


def _database(written: str) -> int:
    if not (written.isascii() and written.isdecimal()):
        raise ValueError("expected the number of a database, like redis://host:6379/0")
    return int(written)
