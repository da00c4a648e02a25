"""Which headers go on, and which stay. Source: RFC 9110 section 7.6.1, RFC 9111, RFC 7838.

Headers are lists of (name, value) pairs: order, case and repetition are the sender's.
"""

from collections.abc import Iterable

from gateway.domain.identifiers import identifier

Headers = list[tuple[str, str]]

HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
# Towards upstream: Host names upstream; Expect is answered by this server; Prefer is meant for the gateway.
_NOT_TO_UPSTREAM = HOP_BY_HOP | {"host", "expect", "prefer"}
# Towards clients: a cookie or an alternative service of upstream's belongs to the gateway's connection to it.
_NOT_TO_CLIENT = HOP_BY_HOP | {"set-cookie", "alt-svc"}

CREDENTIALS = frozenset({"authorization", "api-key"})
"""The headers that say who pays: what the gateway keeps, in memory, to speak to upstream about a response."""
CALLER = CREDENTIALS | {"openai-organization", "openai-project"}
"""These, and for whom of those who share them."""
BETA = "OpenAI-Beta"
_BETA_CHARACTERS = 256
_KEPT_WITH_SNAPSHOT = ("content-type", "x-request-id", "openai-", "x-ms-")


def to_upstream(headers: Iterable[tuple[str, str]], *, drop: frozenset[str] = frozenset()) -> Headers:
    """What of a client's headers upstream gets; `drop` names further ones, in lower case."""
    return _less(headers, _NOT_TO_UPSTREAM | drop)


def to_client(headers: Iterable[tuple[str, str]], *, drop: frozenset[str] = frozenset()) -> Headers:
    """What of upstream's headers the client gets."""
    return _less(headers, _NOT_TO_CLIENT | drop)


def credential(headers: Iterable[tuple[str, str]]) -> Headers:
    """The headers with which upstream will answer for this caller: credential, organisation, project."""
    return [(name, value) for name, value in headers if name.lower() in CALLER]


def beta(values: Iterable[str]) -> str | None:
    """Which betas of upstream's a request takes part in, from its `BETA` headers.

    What is asked about its response has to say so, too.
    """
    said = ",".join(value.strip() for value in values)
    return said if said and len(said) <= _BETA_CHARACTERS and said.isascii() else None


def asking(credential: Iterable[tuple[str, str]] | None, beta: str | None, accept: str) -> Headers:
    """The headers of a request that the gateway makes of its own for a response."""
    betas = [(BETA, beta)] if beta else []
    return [*(credential or ()), *betas, ("Accept", accept), ("Accept-Encoding", "identity")]


def kept_with_snapshot(headers: Iterable[tuple[str, str]]) -> Headers:
    """The headers of an answer that still hold when its body is served again from the store."""
    return [(name, value) for name, value in headers if name.lower().startswith(_KEPT_WITH_SNAPSHOT)]


def first(headers: Iterable[tuple[str, str]], name: str) -> str | None:
    """The first value of a header, by its name in lower case."""
    return next((value for found, value in headers if found.lower() == name), None)


def request_id(headers: Iterable[tuple[str, str]]) -> str | None:
    """What upstream calls a request, by the headers of its answer."""
    return identifier(first(headers, "x-request-id"))


def _less(headers: Iterable[tuple[str, str]], drop: frozenset[str]) -> Headers:
    named = [(name.lower(), (name, value)) for name, value in headers]
    drop |= {token.strip().lower() for name, (_, value) in named if name == "connection" for token in value.split(",")}
    return [header for name, header in named if name not in drop]
