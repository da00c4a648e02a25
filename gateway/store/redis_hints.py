"""Where responses are found: by name, by what they are, by their attempt. Only the modules of `redis` call this.

These keys are in other hash slots than the responses, so no write covers both. They are hints: what leads to a response
is written before the response becomes that, what does not any more goes after it has; so a crash leaves a hint too
many, never one too few, and whoever follows a hint looks at the record itself.
"""

from collections.abc import Iterator, Sequence

from gateway.domain.response import Status
from gateway.store.port import ATTEMPT_S, Query
from gateway.store.redis_link import Call, Command, text
from gateway.store.redis_scripts import UNNAME
from gateway.store.rules import Alias, State, aliases

_ATTEMPT_MS = int(2 * ATTEMPT_S * 1000)
_NAMED = ("all", "live", "stuck", "ended", "unstored", "attempts", *(f"status:{status}" for status in Status))


class Hints:
    """The keys that lead to responses, with a prefix in common; and the commands that keep them."""

    def __init__(self, prefix: str) -> None:
        self._prefix = text(prefix)

    def key(self, *parts: str) -> bytes:
        """A key that is no response's own."""
        return b":".join((self._prefix, *map(text, parts)))

    def shelf(self, query: Query) -> bytes:
        """The smallest list that has all that a query asks for."""
        if query.stuck:
            return self.key("stuck")
        if query.status is not None:
            return self.key(f"status:{query.status}")
        return self.key("live" if query.live else "all")

    def name(self, route: str, response_id: str) -> bytes:
        """Owners of an id, and the key of each one's response."""
        return self.key("name", route, response_id)

    def attempt(self, name: str) -> bytes:
        """Responses whose attempt has a name."""
        return self.key("attempt", name)

    def held_by(self, process: str | None) -> bytes:
        """Live responses that a process holds; None: that nobody does."""
        return self.key("held", process or "")

    def tombstone(self, route: str, response_id: str) -> bytes:
        """What stands for a response in the list of those that are gone."""
        return text(f"{route}\0{response_id}")

    def before(self, key: str, order: int, old: State, new: State, *, kept_ms: int) -> Iterator[Command]:
        """What leads to a response from its next write on; its names for as long as it is kept."""
        if new.entry is None:
            response = old.entry.response if old.entry is not None else None
            if response is not None and response.response_id is not None and new.removed_at is not None:
                stone = self.tombstone(response.route, response.response_id)
                yield ("ZADD", self.key("tombstones"), new.removed_at, stone)
            return
        had, has = self._places(old, order), self._places(new, order)
        for place, score in has.items():
            if had.get(place) != score:
                yield ("ZADD", place, repr(score), text(key))
        if new.attempt is not None and new.attempt is not old.attempt:
            yield ("PEXPIRE", self.attempt(new.attempt.name), _ATTEMPT_MS)
        for route, response_id, owner in aliases(new.entry) - aliases(old.entry):
            name = self.name(route, response_id)
            yield ("HSET", name, text(owner), text(key))
            yield ("PEXPIRE", name, kept_ms)

    def after(self, key: str, order: int, old: State, new: State, *, kept_ms: int) -> Iterator[Command]:
        """What has led to a response and does not since its last write."""
        for place in self._places(old, order).keys() - self._places(new, order).keys():
            yield ("ZREM", place, text(key))
        for route, response_id, owner in aliases(old.entry) - aliases(new.entry):
            yield self._unnamed((route, response_id, owner), key)
        if new.entry is None:
            yield from self.forget(key)
        elif new.entry.response.ended and new.entry is not old.entry:
            for name in {self.name(route, response_id) for route, response_id, _ in aliases(new.entry)}:
                yield ("PEXPIRE", name, kept_ms)

    def forget(self, key: str) -> list[Command]:
        """What is left of a response that has gone by itself."""
        return [("ZREM", self.key(name), text(key)) for name in _NAMED]

    def _unnamed(self, alias: Alias, key: str) -> Command:
        route, response_id, owner = alias
        return Call(UNNAME, (self.name(route, response_id),), (text(owner), text(key)))

    def _places(self, state: State, order: int) -> dict[bytes, float]:
        """The sorted sets that it is in, and its score there."""
        if state.entry is None:
            return {}
        response, places = state.entry.response, {self.key("all"): float(order)}
        if not response.ended:
            places[self.key("live")] = order
            places[self.held_by(state.hold)] = order
        if response.status is not None:
            places[self.key(f"status:{response.status}")] = order
        if response.stuck is not None:
            places[self.key("stuck")] = order
        if response.ended_at is not None:
            places[self.key("ended")] = response.ended_at
            if state.entry.kept and not response.stored:
                places[self.key("unstored")] = response.ended_at
        if state.attempt is not None and state.attempt.open:
            places[self.key("attempts")] = state.attempt.at
            places[self.attempt(state.attempt.name)] = state.attempt.at
        return places


def keys_of(found: Sequence[bytes]) -> list[str]:
    """Keys of responses, as the hints have them."""
    return [key.decode("utf-8", "surrogatepass") for key in found]
