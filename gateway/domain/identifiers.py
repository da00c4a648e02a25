"""Which words of clients and of upstream may be shown: in log lines, on spans, in labels of metrics, to operators.

Rule: ids and names, and nothing else. Whatever does not look like one (a sentence, a header, a thousand characters) may
be a prompt or a secret in the wrong place: it is not even kept. Where a body is read, it is read through this.
"""

import re

_IDENTIFIER = re.compile(r"[\w.:/@~+-]{1,128}")
_PRODUCTS = re.compile(r"[\w./+-]{1,64}(?: [\w./+-]{1,64}){0,3}")


METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"})
"""RFC 9110, RFC 5789 and the HTTP QUERY method."""
OTHER_METHOD = "_OTHER"
"""How any other method is shown, as OpenTelemetry's HTTP conventions say: a method is anybody's text, too."""


def known_method(method: str) -> str:
    """A request's method as it may be shown."""
    return method if method in METHODS else OTHER_METHOD


def identifier(text: str | None) -> str | None:
    """The text where it looks like an id or a name, else None.

    That is up to 128 letters, digits and `_ . : / @ ~ + -`, of which ids, models, codes and versions are made.
    """
    return text if text is not None and _IDENTIFIER.fullmatch(text) else None


def product(user_agent: str | None) -> str | None:
    """What a `User-Agent` names first: products and versions, without the comments in which anything may stand."""
    found = _PRODUCTS.match(user_agent or "")
    return found[0] if found else None
