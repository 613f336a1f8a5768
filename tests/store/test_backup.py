"""Copies of a store: beside a server that writes, without one, and every way in which none can be made."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from carousel_server.core.store import SessionKey, Verdict
from carousel_server.store import SqliteStore, StoreError, back_up_store
from carousel_server.store.backup import back_up, copy, door_path

from .media import KEY, NEW, commit


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(path)
    store.acquire(KEY, epoch_floor=0, new=NEW)
    store.commit([commit(3)], fsync=False)
    yield store
    store.close()


def seq_in(copied: Path, key: SessionKey = KEY) -> int:
    """What a server finds that starts on a copy."""
    again = SqliteStore(copied)
    try:
        return again.read(key).seq
    finally:
        again.close()


def refusal(*arguments: Path) -> str:
    with pytest.raises(StoreError) as error:
        back_up(*arguments)
    cause, fix = str(error.value).splitlines()
    assert cause
    assert fix
    return cause


def test_a_copy_beside_a_server_has_all_that_was_committed(store: SqliteStore, path: Path) -> None:
    copied = back_up(path, path.with_name("copy.db"))
    assert (copied.sessions, copied.bytes > 0) == (1, True)
    assert store.commit([commit(4)], fsync=True)[0].verdict is Verdict.DONE, "the server goes on"
    assert seq_in(path.with_name("copy.db")) == 3


def test_a_copy_is_one_file_for_its_owner_only(store: SqliteStore, path: Path) -> None:
    folder = path.parent / "copies"
    folder.mkdir()
    before = os.umask(0)
    try:
        back_up(path, folder / "copy.db")
    finally:
        os.umask(before)
    assert [one.name for one in folder.iterdir()] == ["copy.db"]
    assert (folder / "copy.db").stat().st_mode & 0o777 == 0o600
    assert door_path(path).stat().st_mode & 0o777 == 0o600


def test_a_copy_is_whole_while_sessions_are_written(store: SqliteStore, path: Path) -> None:
    """Two sessions are always written in one transaction; a copy never has one of them alone."""
    other = SessionKey("tenant", "other")
    store.acquire(other, epoch_floor=0, new=NEW)
    snapshot = bytes(100_000)
    store.commit(
        [commit(3, snapshot=snapshot), commit(3, key=other, snapshot=snapshot)], fsync=False
    )
    done = threading.Event()

    def ask() -> None:
        for number in range(5):
            back_up(path, path.with_name(f"copy{number}.db"))
        done.set()

    asking = threading.Thread(target=ask)
    asking.start()
    seq = 3
    while not done.is_set():
        seq += 1
        both = [commit(seq, snapshot=snapshot), commit(seq, key=other, snapshot=snapshot)]
        assert {o.verdict for o in store.commit(both, fsync=seq % 2 == 0)} == {Verdict.DONE}
    asking.join()
    for number in range(5):
        copied = path.with_name(f"copy{number}.db")
        assert seq_in(copied) == seq_in(copied, other)


def test_without_a_server_the_command_copies_itself(store: SqliteStore, path: Path) -> None:
    store.close()
    assert not door_path(path).exists()
    assert back_up(path, path.with_name("copy.db")).sessions == 1
    assert seq_in(path.with_name("copy.db")) == seq_in(path) == 3


def test_what_a_killed_server_left_is_copied_too(store: SqliteStore, path: Path) -> None:
    """The log has what the file lacks."""
    left = path.parent / "left"
    left.mkdir()
    for end in ("", "-wal"):
        (left / f"s.db{end}").write_bytes(path.with_name(path.name + end).read_bytes())
    assert back_up(left / "s.db", path.with_name("copy.db")).sessions == 1
    assert seq_in(path.with_name("copy.db")) == 3


def test_what_cannot_be_copied_is_named(store: SqliteStore, path: Path, tmp_path: Path) -> None:
    (tmp_path / "there.db").write_text("mine")
    assert "exists already" in refusal(path, tmp_path / "there.db")
    assert (tmp_path / "there.db").read_text() == "mine"
    assert "there is no store" in refusal(tmp_path / "none.db", tmp_path / "copy.db")
    assert not (tmp_path / "none.db").exists()
    assert f"no folder {tmp_path / 'nowhere'}" in refusal(path, tmp_path / "nowhere" / "copy.db")
    assert "cannot write" in refusal(path, tmp_path / ("long" * 99))
    (tmp_path / "text.db").write_text("this is no database, but some text" * 100)
    assert "is not a store" in refusal(tmp_path / "text.db", tmp_path / "copy.db")


def test_a_server_that_takes_no_requests_is_named(store: SqliteStore, path: Path) -> None:
    door_path(path).unlink()
    assert f"in use by process {os.getpid()}" in refusal(path, path.with_name("copy.db"))


def test_a_copy_that_is_cut_off_leaves_nothing(store: SqliteStore, path: Path) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(StoreError, match="the server is shutting down"):
        copy(store._db, path.with_name("copy.db"), stop)
    assert not list(path.parent.glob("copy.db*"))


def test_the_door_of_a_killed_server_is_no_hindrance(path: Path) -> None:
    door_path(path).write_text("left behind")
    store = SqliteStore(path)
    assert back_up(path, path.with_name("copy.db")).sessions == 0
    store.close()
    store.close()
    assert not door_path(path).exists()


def test_a_request_that_makes_no_sense_is_answered(store: SqliteStore, path: Path) -> None:
    assert "cannot be read" in str(store._door._answer(b"\xff{")["error"])
    assert "cannot be read" in str(store._door._answer(b'{"to": 1}')["error"])


def test_a_path_that_is_too_long_for_a_socket_starts_all_the_same(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    store = SqliteStore(folder / "sessions.db")
    assert "in use" in refusal(folder / "sessions.db", tmp_path / "copy.db")
    store.close()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis://:hunter2@host/0", "BGSAVE"),
        ("rediss://host/0", "BGSAVE"),
        ("unix:///run/redis.sock", "BGSAVE"),
        ("memory", "--store sqlite:FILE"),
        ("", "--store sqlite:FILE"),
        ("postgres://u:hunter2@host/db", "kind of store is unknown"),
        ("sqlite", "sqlite"),
    ],
)
def test_other_stores_say_how_they_are_copied(url: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError) as error:
        back_up_store(url, tmp_path / "copy.db")
    assert words in str(error.value)
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize("form", ["sqlite:{}", "sqlite://{}", "{}"])
def test_a_store_is_named_as_in_the_setting(store: SqliteStore, path: Path, form: str) -> None:
    copied = path.with_name("copy.db")
    assert back_up_store(form.format(path), copied).sessions == 1
    with closing(sqlite3.connect(copied)) as db:
        assert db.execute("PRAGMA journal_mode").fetchone()[0] == "delete"
