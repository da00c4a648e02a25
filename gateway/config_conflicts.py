"""Settings that are each good and not together.

Called by `gateway.config` alone.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.config import Settings


class Conflict(ValueError):
    """Settings that do not fit together; `names` are theirs, the first that is written gets the blame."""

    def __init__(self, names: tuple[str, ...], reason: str) -> None:
        super().__init__(reason)
        self.names = names


def check(settings: "Settings") -> None:
    """Raises Conflict."""
    if settings.upstream_api_key and not settings.listen.is_loopback:
        reason = "clients cannot be authenticated yet, so with upstream_api_key anyone could spend that key"
        raise Conflict(("listen",), f"{reason}; expected a loopback address, like 127.0.0.1:8080")
    if not settings.ops_token and not settings.ops_listen.is_loopback:
        raise Conflict(("ops_listen",), "expected a loopback address, or ops_token to be set as well")
    if settings.workers > 1 and settings.store.kind != "redis":
        reason = f"{settings.store} is for one process; expected 1, or a store that several share, like"
        raise Conflict(("workers", "store"), f"{reason} redis://host:6379/0")
    if settings.ops_listen.port and settings.ops_listen.port + settings.workers - 1 > 65535:
        raise Conflict(("ops_listen", "workers"), "expected ports up to 65535 for all workers, a port each")
    if settings.sealing_keys and settings.sealing_key_file:
        raise Conflict(("sealing_key_file",), "expected either this or sealing_keys, not both")
    if settings.create_wait_s > settings.create_wait_max_s:
        both = f"create_wait_s ({settings.create_wait_s:.15g}) to be at most create_wait_max_s"
        reason = f"expected {both} ({settings.create_wait_max_s:.15g})"
        raise Conflict(("create_wait_s", "create_wait_max_s"), reason)
    if settings.tombstone_s < settings.retention_s:
        both = f"tombstone_s ({settings.tombstone_s:.15g}) to be at least retention_s ({settings.retention_s:.15g})"
        raise Conflict(("tombstone_s", "retention_s"), f"expected {both}")
