"""How commands speak to a running gateway: its operator API over HTTP, one request at a time."""

import argparse
import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from gateway import config
from gateway.commands.terminal import Failed
from gateway.config import Settings
from gateway.config_reading import OPS_URL_VARIABLE, base_url
from gateway.telemetry.names import SERVICE

_ANSWER_S = 15.0


class NoGateway(Failed):
    """Nothing answers at the operators' address."""


class Operator:
    """A running gateway, as its operators see it. `url` is that of its ops address.

    Every call raises `NoGateway` where there is none, and `Failed` with the gateway's words where it refuses.
    """

    def __init__(self, url: str, token: str | None) -> None:
        self.url = url
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        # Not by a proxy: what answers is on this machine or in this network.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def get(self, path: str, **query: Any) -> dict[str, Any]:
        """The JSON at a path; query fields that are None are left out."""
        return self._json("GET", path, query, _ANSWER_S)

    def post(self, path: str, *, timeout_s: float = _ANSWER_S) -> dict[str, Any]:
        """What a POST without a body comes back with."""
        return self._json("POST", path, {}, timeout_s)

    def events(self, path: str, **query: Any) -> Iterator[dict[str, Any]]:
        """The data of each event at a path, as they come; ends with the connection, however that ends."""
        try:
            with self._open("GET", path, query, None) as answer:
                for line in answer:
                    if line.startswith(b"data: "):
                        yield json.loads(line.removeprefix(b"data: "))
        except (http.client.HTTPException, ConnectionError):
            return

    def _json(self, method: str, path: str, query: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        with self._open(method, path, query, timeout_s) as answer:
            try:
                found: dict[str, Any] = json.load(answer)
            except (ValueError, OSError, http.client.HTTPException) as error:
                raise Failed(f"the answer of the gateway at {self.url} broke off ({error})") from None
        return found

    def _open(self, method: str, path: str, query: dict[str, Any], timeout_s: float | None) -> Any:
        fields = urlencode({name: value for name, value in query.items() if value is not None})
        url = f"{self.url}{path}?{fields}" if fields else f"{self.url}{path}"
        request = urllib.request.Request(url, method=method, headers=self._headers)
        try:
            answer = self._opener.open(request, timeout=timeout_s)
        except urllib.error.HTTPError as error:
            answer = error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            words = (getattr(reason, "strerror", None) or str(reason)).lower()
            raise NoGateway(
                f"no gateway answers at {self.url} ({words}); is it running? --ops-url or {OPS_URL_VARIABLE} says where"
            ) from None
        if answer.headers.get("Server") != SERVICE:
            answer.close()
            raise Failed(f"what answers at {self.url} is no gateway's ops address ({answer.status} {answer.reason})")
        if answer.status >= 400:
            raise Failed(_message(answer))
        return answer


def path_of(name: str, *rest: str) -> str:
    """The path of a response on the operator API."""
    return "/".join(["/responses", quote(name, safe="~"), *rest])


def add_ops_url(parser: argparse.ArgumentParser) -> None:
    """The flag that says where the running gateway is."""
    parser.add_argument(
        "--ops-url", type=_url, metavar="URL", help=f"a running gateway's ops address [{OPS_URL_VARIABLE}]"
    )


def add_flags(parser: argparse.ArgumentParser) -> None:
    """What a command needs that only speaks to a running gateway."""
    group = parser.add_argument_group("where the gateway is", "each is also a variable (in brackets)")
    group.add_argument(
        "--ops-url",
        type=_url,
        metavar="URL",
        help=f"its ops address (default: what --ops-listen of serve is set to) [{OPS_URL_VARIABLE}]",
    )
    group.add_argument(
        "--ops-token",
        metavar="TOKEN",
        help="its operators' token; prefer the variable, a flag shows in process lists [GATEWAY_OPS_TOKEN]",
    )
    group.add_argument("--config", type=Path, metavar="FILE", help="the gateway's TOML file [GATEWAY_CONFIG]")


def from_flags(arguments: argparse.Namespace) -> Operator:
    """The gateway that flags, variables and file point to. Raises SettingsError."""
    flags = {"ops_token": arguments.ops_token} if arguments.ops_token else {}
    return of(config.load(flags, config_file=arguments.config), arguments.ops_url)


def of(settings: Settings, ops_url: str | None) -> Operator:
    """The gateway that runs with these settings, or at `ops_url` if that is given. Raises SettingsError."""
    token = settings.ops_token
    return Operator(ops_url or config.operators_url(settings), token.get_secret_value() if token else None)


def _message(refusal: Any) -> str:
    """What an error in OpenAI's shape says; one of upstream's may have another shape."""
    with refusal:
        try:
            return str(json.load(refusal)["error"]["message"])
        except (ValueError, LookupError, TypeError, OSError):
            return f"it was refused ({refusal.status} {refusal.reason})"


def _url(text: str) -> str:
    try:
        return base_url(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
