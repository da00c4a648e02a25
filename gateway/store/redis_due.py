"""The ends that are due, in Redis: each beside its response, and a list for each process. Only `redis` calls this.

An end's number is its time, then a count and a number of the process at random: numbers ascend, and none comes twice.
The list of a process is there for others when it has died; they are hints like all that is not beside the response.
"""

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import msgspec

from gateway.domain.encoding import decode, encode
from gateway.domain.response import Response
from gateway.store.port import Due
from gateway.store.redis_hints import Hints, keys_of
from gateway.store.redis_link import Call, Command, Link, text
from gateway.store.redis_processes import Processes
from gateway.store.redis_rows import Names
from gateway.store.redis_scripts import AMEND

_BYTES = 12
_COUNT_BITS, _PROCESS_BITS = 24, 16
_BEYOND = b"\xff"


class _Kept(msgspec.Struct, frozen=True):
    response: Response
    late: bool


_kept = msgspec.json.Decoder(_Kept)


@dataclass(frozen=True, slots=True)
class Ends:
    """What a write of ends takes: fields beside the response, what leads to them, and how to take that back."""

    fields: dict[bytes, bytes]
    before: list[Command]
    back: list[Command]


class Dues:
    """What is due, of this process and of those that do not live any more."""

    def __init__(self, link: Link, hints: Hints, names: Callable[[str], Names], processes: Processes) -> None:
        self._link, self._hints, self._names, self._processes = link, hints, names, processes
        self._counts = count()
        self._random = secrets.randbits(_PROCESS_BITS)

    def ends(self, key: str, ends: Sequence[tuple[Response, bool]]) -> Ends:
        """How ends of a response are written."""
        members = {self._number(response): encode(_Kept(response, late)) for response, late in ends}
        mine = self._list(self._processes.me)
        hints = [number + text(key) for number in members]
        before: list[Command] = [("ZADD", mine, 0, hint) for hint in hints]
        return Ends(members, before, [("ZREM", mine, hint) for hint in hints])

    async def due(self, after: int, limit: int) -> list[Due]:
        """The first ends beyond a number."""
        beyond = b"-" if after < 0 else b"(" + after.to_bytes(_BYTES, "big") + _BEYOND
        found: list[Due] = []
        while True:
            hints = await self._some(beyond, limit)
            asked = [("HGET", self._names(key).due, number) for number, key in hints]
            answers = await self._link.read(*asked) if asked else []
            for (number, _), data in zip(hints, answers, strict=True):
                if data is not None:
                    kept = decode(_kept, data)
                    found.append(Due(int.from_bytes(number, "big"), kept.response, kept.late))
            if len(found) >= limit or not hints:
                return found[:limit]
            beyond = b"(" + hints[-1][0] + _BEYOND

    async def amend(self, due: Due) -> None:
        """Keep another value of an end that is due."""
        number = due.number.to_bytes(_BYTES, "big")
        value = encode(_Kept(due.response, due.late))
        await self._link.write(Call(AMEND, (self._names(due.response.key).due,), (number, value)))

    async def settle(self, numbers: Sequence[int]) -> None:
        """These ends are not due any more."""
        if not numbers:
            return
        lists = [self._list(process) for process in await self._processes.whose_ends()]
        wanted = [number.to_bytes(_BYTES, "big") for number in numbers]
        asked = [(one, number) for one in lists for number in wanted]
        answers = await self._link.read(
            *[("ZRANGEBYLEX", one, b"[" + number, b"[" + number + _BEYOND) for one, number in asked]
        )
        gone = [(one, hint) for (one, _), hints in zip(asked, answers, strict=True) for hint in hints]
        await self._remove(gone)

    async def owed(self) -> int:
        """How many ends are due."""
        lists = [self._list(process) for process in await self._processes.whose_ends()]
        return sum(await self._link.read(*[("ZCARD", one) for one in lists]))

    async def forget(self, until: float, limit: int) -> int:
        """Forget ends of that time or before; how many."""
        beyond = b"(" + ((int(until * 1e6) + 1) << (_COUNT_BITS + _PROCESS_BITS)).to_bytes(_BYTES, "big")
        lists = [self._list(process) for process in await self._processes.whose_ends()]
        answers = await self._link.read(*[("ZRANGEBYLEX", one, b"-", beyond, "LIMIT", 0, limit) for one in lists])
        gone = [(one, hint) for one, hints in zip(lists, answers, strict=True) for hint in hints]
        await self._remove(gone)
        return len(gone)

    async def _some(self, beyond: bytes, limit: int) -> list[tuple[bytes, str]]:
        lists = [self._list(process) for process in await self._processes.whose_ends()]
        answers = await self._link.read(*[("ZRANGEBYLEX", one, beyond, b"+", "LIMIT", 0, limit) for one in lists])
        return [_parts(hint) for hint in sorted(hint for hints in answers for hint in hints)[:limit]]

    async def _remove(self, hints: Sequence[tuple[bytes, bytes]]) -> None:
        """First what is due, then what leads to it."""
        if hints:
            await self._link.write(*[command for _, hint in hints for command in self._settled(hint)])
            await self._link.write(*[("ZREM", one, hint) for one, hint in hints])

    def _settled(self, hint: bytes) -> Iterator[Command]:
        number, key = _parts(hint)
        yield ("HDEL", self._names(key).due, number)

    def _list(self, process: str) -> bytes:
        return self._hints.key("due", process)

    def _number(self, response: Response) -> bytes:
        at = int((response.ended_at or 0.0) * 1e6)
        counted = (at << _COUNT_BITS) + next(self._counts) % 2**_COUNT_BITS
        number: int = (counted << _PROCESS_BITS) + self._random
        return number.to_bytes(_BYTES, "big")


def _parts(hint: bytes) -> tuple[bytes, str]:
    (key,) = keys_of([hint[_BYTES:]])
    return hint[:_BYTES], key
