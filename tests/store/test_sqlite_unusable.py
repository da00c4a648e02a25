"""A file that SQLite, or this gateway, cannot use: one line that says what to do, and the file as it was."""

import asyncio
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from given import Opener, a_record, ended, events, logged, rows

from gateway.store.port import Unusable
from gateway.store.sqlite import SqliteStore
from gateway.store.sqlite_file import APPLICATION, VERSION


@pytest.fixture
async def store(opened: Opener) -> SqliteStore:
    """A new store on a file."""
    return await opened()


def bytes_of(path: Path) -> bytes:
    return path.read_bytes()


def with_content(folder: Path) -> set[str]:
    """The names of the files there that are not empty, as locks are."""
    return {file.name for file in folder.iterdir() if file.stat().st_size}


def break_file(path: Path, how: str) -> None:
    head = bytearray(path.read_bytes())
    if how == "garbage":
        path.write_bytes(b"garbage" * 1000)
    elif how == "short":
        path.write_bytes(b"SQLite format 3\0")
    elif how == "truncated":
        path.write_bytes(head[: len(head) // 2])
    elif how == "a broken page":
        path.write_bytes(head[:4096] + b"\xff" * 4096 + head[8192:])
    elif how == "a newer version":
        struct.pack_into(">i", head, 60, VERSION + 1)
        path.write_bytes(head)
    else:
        path.unlink()
        rows(path, "CREATE TABLE notes(text)")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("garbage", "is not an SQLite database: move it away, or store elsewhere"),
        ("short", "is not an SQLite database"),
        ("truncated", r"is damaged \(.*\): put a backup in its place, or move it away"),
        ("a broken page", r"is damaged \(.*\): put a backup in its place, or move it away"),
        ("a newer version", r"is of a newer version \(2; known is 1\): run that version, or store elsewhere"),
        ("another program", "belongs to another program: store elsewhere"),
    ],
)
async def test_a_file_that_is_no_store_is_left_as_it_is(
    opened: Opener,
    path: Path,
    how: str,
    message: str,
) -> None:
    store = await opened()
    for number in range(30):
        await ended(store, str(number), last=30)
    await store.close()
    break_file(path, how)
    before = bytes_of(path)
    for _ in range(2):
        with pytest.raises(Unusable, match=message) as refused:
            await SqliteStore(path).open()
        assert str(refused.value).startswith(str(path))
        assert "\n" not in str(refused.value)
    assert bytes_of(path) == before
    assert with_content(path.parent) == {path.name}


async def test_a_place_where_no_file_can_be_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for place, message in (
        (tmp_path, "is a directory: name a file in it"),
        (tmp_path / "missing" / "file.db", "the directory .*missing does not exist: create it"),
        (file / "file.db", "the directory .*file does not exist: create it"),
        (tmp_path / ("long" * 100), "cannot write in .*: give this user the right to"),
    ):
        with pytest.raises(Unusable, match=message):
            await SqliteStore(place).open()


async def test_an_empty_file_becomes_a_store(opened: Opener, path: Path) -> None:
    rows(path, "SELECT 1")
    assert bytes_of(path) == b""
    store = await opened()
    await logged(store, last=1)
    head = bytes_of(path)
    assert struct.unpack_from(">i", head, 60) == (VERSION,)
    assert struct.unpack_from(">i", head, 68) == (APPLICATION,)


async def test_a_second_store_on_the_file_is_refused(store: SqliteStore, path: Path) -> None:
    await logged(store, last=1)
    link = path.parent / "link.db"
    link.symlink_to(path)
    for place in (path, link):
        with pytest.raises(Unusable, match=r"is in use by another gateway: stop it, or store elsewhere"):
            await SqliteStore(place).open()
    assert await store.append("key", events(2), tail=1, epoch=1) == 1


async def test_a_second_process_is_refused(store: SqliteStore, path: Path) -> None:
    await logged(store, last=1)
    program = (
        "import asyncio, sys\n"
        "from gateway.store.sqlite import SqliteStore\n"
        "asyncio.run(SqliteStore(sys.argv[1]).open())\n"
    )
    second = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, str(path), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    _, said = await second.communicate()
    assert second.returncode == 1
    assert b"is in use by another gateway" in said.splitlines()[-1]
    assert await store.append("key", events(2), tail=1, epoch=1) == 1


async def test_another_program_cannot_write_to_it(store: SqliteStore, path: Path) -> None:
    await logged(store, last=1)
    program = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('DELETE FROM record')"
    second = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, str(path), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    _, said = await second.communicate()
    assert b"database is locked" in said


async def test_after_it_was_closed_it_can_be_opened(opened: Opener) -> None:
    store = await opened()
    await store.close()
    await store.close()
    store = await opened()
    assert await logged(store, last=1) == a_record(response_id="resp_key").but(epoch=1, tail=1, logged=True)
