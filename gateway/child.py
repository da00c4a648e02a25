"""A process that works for this one, and the line between the two, which the child has in place of its stdin.

Nobody else has the line, and both ends are one program. It is closed by the system when either end is gone, however
that ended: a child is never left behind.
"""

import asyncio
import socket
import sys
from asyncio.subprocess import Process

_SIZE_BYTES = 4


async def start(
    module: str, *arguments: str, silent: bool = False
) -> tuple[Process, asyncio.StreamReader, asyncio.StreamWriter]:
    """Start `python -m module arguments`; the process, and this end of the line to it. Raises OSError.

    `silent`: it does not have this process's stdout, which would stay open for as long as it does.
    """
    here, there = socket.socketpair()
    with there:
        try:
            stdout = asyncio.subprocess.DEVNULL if silent else None
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", module, *arguments, stdin=there.fileno(), stdout=stdout
            )
        except BaseException:
            here.close()
            raise
    return process, *await asyncio.open_connection(sock=here)


def own_end() -> socket.socket:
    """In a child: its end of the line."""
    return socket.socket(fileno=0)


def framed(message: bytes) -> bytes:
    """A message as it goes over the line: with its length before it."""
    return len(message).to_bytes(_SIZE_BYTES) + message


async def heard(reader: asyncio.StreamReader) -> bytes:
    """The next message. Raises EOFError when the line is closed."""
    try:
        return await reader.readexactly(int.from_bytes(await reader.readexactly(_SIZE_BYTES)))
    except ConnectionError as error:
        raise EOFError from error


def heard_first(end: socket.socket) -> bytes:
    """The first message, waited for by the whole process; less of it where the line is closed before."""
    return end.recv(int.from_bytes(end.recv(_SIZE_BYTES, socket.MSG_WAITALL)), socket.MSG_WAITALL)
