"""What only SQLite can do wrong: files, locks, space, and the death of the process that writes."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from carousel_server.core.errors import CarouselError
from carousel_server.core.store import Holding, SessionKey, Verdict
from carousel_server.store import SqliteStore, StoreError, sqlite_file

from .media import KEY, NEW, commit

NOBODY = 65_534


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(path)
    yield store
    store.close()


def refusal(path: Path) -> str:
    """What opening says: a cause and a fix, and nothing stays locked."""
    with pytest.raises(StoreError) as error:
        SqliteStore(path)
    cause, fix = str(error.value).splitlines()
    assert cause
    assert fix
    return str(error.value)


def filled(path: Path, sessions: int = 200) -> None:
    store = SqliteStore(path)
    for number in range(sessions):
        key = SessionKey("tenant", f"s{number:04}")
        store.acquire(key, epoch_floor=0, new=NEW)
        store.commit([commit(1, key=key, snapshot=os.urandom(4096))], fsync=False)
    store.close()


# -- the file


def test_the_file_is_whole_after_closing_and_the_log_is_gone(path: Path) -> None:
    filled(path, 3)
    assert not path.with_name("sessions.db-wal").exists()
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT count(*) FROM sessions").fetchone() == (3,)
        assert db.execute("PRAGMA user_version").fetchone() == (sqlite_file.VERSION,)
    db.close()


def test_a_second_server_is_told_who_has_the_file(store: SqliteStore, path: Path) -> None:
    assert f"in use by process {os.getpid()}" in refusal(path)


def test_another_program_that_reads_it_is_named(path: Path) -> None:
    filled(path, 1)
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("BEGIN")
    db.execute("SELECT * FROM sessions").fetchall()
    assert "open in another program" in refusal(path)
    db.close()
    SqliteStore(path).close()


def test_another_program_cannot_come_in_later(store: SqliteStore, path: Path) -> None:
    store.acquire(KEY, epoch_floor=0, new=NEW)
    db = sqlite3.connect(path, timeout=0.0)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        db.execute("SELECT * FROM sessions")
    db.close()


def test_a_file_of_another_version_is_refused(path: Path) -> None:
    filled(path, 1)
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    assert "version 99" in refusal(path)


def test_another_programs_database_is_refused(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE holidays (day TEXT)")
    db.close()
    assert "another program's" in refusal(path)


@pytest.mark.parametrize("content", [b"not a database at all" * 100, os.urandom(8192)])
def test_garbage_is_refused_and_left_as_it_is(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert "not a store, or is damaged" in refusal(path)
    assert path.read_bytes() == content


def test_a_torn_file_is_refused(path: Path) -> None:
    filled(path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    assert "damaged" in refusal(path)


def test_pages_of_garbage_are_noticed_at_the_start(path: Path) -> None:
    filled(path)
    with path.open("r+b") as file:
        for page in range(10, 200, 10):
            file.seek(page * 4096)
            file.write(os.urandom(4096))
    assert "damaged" in refusal(path)


def test_an_empty_file_is_a_new_store(path: Path) -> None:
    path.touch()
    SqliteStore(path).close()


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert "mkdir" in refusal(tmp_path / "none" / "sessions.db")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    assert "is a folder" in refusal(tmp_path)


def test_no_permission(path: Path) -> None:
    """The folders of tests belong to whoever runs them, alone."""
    if os.geteuid() != 0:
        path.parent.chmod(0o500)
        text = refusal(path)
        path.parent.chmod(0o700)
    else:
        code = (
            "import os; from pathlib import Path; from carousel_server.store import SqliteStore; "
            f"os.setuid({NOBODY}); SqliteStore(Path({str(path)!r}))"
        )
        text = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr
    assert "cannot write" in text
    assert "the right to write" in text


# -- space


def fill(store: SqliteStore) -> int:
    """Commits until there is no space; how many sessions were kept."""
    kept = 0

    def fill_up() -> None:
        nonlocal kept
        while kept < 10_000:
            key = SessionKey("tenant", f"s{kept}")
            store.acquire(key, epoch_floor=0, new=NEW)
            store.commit([commit(1, key=key, snapshot=os.urandom(30_000))], fsync=False)
            kept += 1

    with pytest.raises(CarouselError, match="full") as error:
        fill_up()
    assert error.value.reason == "STORE_UNAVAILABLE"
    assert error.value.retry_after_s
    return kept


def test_a_full_store_says_so_and_works_again_with_space(store: SqliteStore) -> None:
    store._db.execute("PRAGMA max_page_count = 200")
    key = SessionKey("tenant", f"s{fill(store) - 1}")
    assert store.read(key).seq == 1
    with pytest.raises(CarouselError):
        store.commit([commit(2, key=key, snapshot=bytes(900_000))], fsync=True)
    assert store.read(key).seq == 1, "nothing of a failed transaction stays"
    store._db.execute("PRAGMA max_page_count = 20000")
    outcomes = store.commit([commit(2, key=key, snapshot=bytes(900_000))], fsync=True)
    assert outcomes[0].verdict is Verdict.DONE


def test_a_full_disk_says_so_and_works_again_with_space(tmp_path: Path) -> None:
    """A real file system of 2 MiB; needs root."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", tmp_path], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("cannot mount a file system here")
    try:
        ballast = tmp_path / "ballast"
        ballast.write_bytes(bytes(1 << 20))
        store = SqliteStore(tmp_path / "sessions.db")
        key = SessionKey("tenant", f"s{fill(store) - 1}")
        with pytest.raises(CarouselError, match="STORE_UNAVAILABLE"):
            store.commit([commit(2, key=key, snapshot=bytes(1 << 19))], fsync=True)
        ballast.unlink()
        assert store.commit([commit(2, key=key)], fsync=True)[0].verdict is Verdict.DONE
        store.close()
        again = SqliteStore(tmp_path / "sessions.db")
        assert again.read(key).seq == 2
        again.close()
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.parametrize("room_kib", [0, 4, 16])
def test_a_disk_that_is_full_at_the_start_says_its_fix(tmp_path: Path, room_kib: int) -> None:
    """A real file system without room for a new store; needs root."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("cannot mount a file system here")
    try:
        (tmp_path / "ballast").write_bytes(bytes((1024 - room_kib) << 10))
        with pytest.raises(StoreError) as error:
            SqliteStore(tmp_path / "sessions.db")
        cause, fix = str(error.value).splitlines()
        assert "no space is left" in cause
        assert fix == "free some space, or name a file on another disk"
        (tmp_path / "ballast").unlink()
        SqliteStore(tmp_path / "sessions.db").close()
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_the_file_shrinks_when_sessions_have_gone(store: SqliteStore, path: Path) -> None:
    keys = [SessionKey("tenant", f"s{number}") for number in range(1000)]
    for key in keys:
        store.acquire(key, epoch_floor=0, new=NEW)
    store.commit([commit(1, key=key, snapshot=bytes(8000)) for key in keys], fsync=False)
    before = store.statistics().bytes
    for key in keys:
        store.remove(key, 1, "SESSION_CLOSED")
    for _ in range(20):
        store.sweep(0.0, 10)
    assert store.statistics().bytes < before * 0.75


# -- what is remembered, and for how long


def test_reasons_are_forgotten_after_a_day(store: SqliteStore) -> None:
    store.acquire(KEY, epoch_floor=0, new=NEW)
    store.remove(KEY, 1, "SESSION_CLOSED")
    now = store._now()
    store.sweep(now + 86_000, 10)
    with pytest.raises(CarouselError, match="SESSION_CLOSED"):
        store.read(KEY)
    store.sweep(now + 87_000, 10)
    with pytest.raises(CarouselError, match="SESSION_NOT_FOUND"):
        store.read(KEY)


def test_a_closed_store_does_not_answer(path: Path) -> None:
    store = SqliteStore(path)
    store.close()
    with pytest.raises(CarouselError, match="STORE_UNAVAILABLE"):
        store.commit([commit(1)], fsync=False)


@pytest.mark.parametrize("fsync", [False, True])
def test_fsync_is_what_the_commit_asked_for(store: SqliteStore, fsync: bool) -> None:
    store.acquire(KEY, epoch_floor=0, new=NEW)
    store.commit([commit(1)], fsync=fsync)
    assert store._db.execute("PRAGMA synchronous").fetchone() == (2 if fsync else 1,)


# -- the death of the process

WRITER = """
import sys
from pathlib import Path
from carousel_server.core.store import Commit, NewSession, SessionKey
from carousel_server.core.types import Durability
from carousel_server.store import SqliteStore

store = SqliteStore(Path(sys.argv[1]))
keys = [SessionKey("tenant", f"s{n}") for n in range(8)]
for key in keys:
    store.acquire(key, epoch_floor=0, new=NewSession("m", Durability.SYNC, 1e6, 1, 1.0))
seq = 0
while True:
    seq += 1
    group = [Commit(key, 1, seq, bytes([seq % 256]) * 4096, 1e10) for key in keys]
    store.commit(group, fsync=sys.argv[2] == "fsync")
    print(seq, flush=True)
"""


@pytest.mark.parametrize("level", ["nosync", "fsync"])
def test_kill_minus_nine_loses_nothing_committed(path: Path, level: str) -> None:
    """And tears no group: all its sessions have the same seq."""
    for life in range(3):
        path.unlink(missing_ok=True)
        path.with_name("sessions.db-wal").unlink(missing_ok=True)
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, path, level], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            for _ in range(20 + 300 * life):
                writer.stdout.readline()
            writer.kill()
            told = int((writer.stdout.read().split() or ["0"])[-1]) or 20 + 300 * life
        store = SqliteStore(path)
        records = [
            store.acquire(SessionKey("tenant", f"s{n}"), epoch_floor=0, new=None) for n in range(8)
        ]
        store.close()
        assert len({record.seq for record in records}) == 1
        seq = records[0].seq
        assert seq in (told, told + 1), "the last one may not have been told"
        assert all(record.snapshot == bytes([seq % 256]) * 4096 for record in records)
        assert all(record.epoch == 2 for record in records)


# -- who may read the files


def modes(path: Path) -> dict[str, int]:
    """The permissions of the store's files, by the ends of their names."""
    return {
        one.name.removeprefix(path.name): one.stat().st_mode & 0o777
        for one in path.parent.iterdir()
    }


@pytest.fixture
def open_mask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("open_mask")
def test_only_the_servers_user_can_read_the_files(path: Path) -> None:
    store = SqliteStore(path)
    store.acquire(KEY, epoch_floor=0, new=NEW)
    assert modes(path) == dict.fromkeys(("", "-wal", ".lock", ".backup"), 0o600)
    store.close()


@pytest.mark.usefixtures("open_mask")
def test_files_of_an_older_version_are_closed_to_others(path: Path) -> None:
    SqliteStore(path).close()
    plain = sqlite3.connect(path)
    plain.execute("UPDATE sessions SET held = 0")
    for one in (path, path.with_name("sessions.db-wal"), path.with_name("sessions.db.lock")):
        one.touch()
        one.chmod(0o644)
    plain.close()
    SqliteStore(path).close()
    assert set(modes(path).values()) == {0o600}


def test_a_file_of_an_older_server_has_no_session_that_is_known_to_be_whole(path: Path) -> None:
    """Its sessions go on. The older server can use the file again, and what it marks is nothing."""
    store = SqliteStore(path)
    store.acquire(KEY, epoch_floor=0, new=NEW)
    store.release([Holding(KEY, 1, store.now_unix_s(), whole=True)])
    store.close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("ALTER TABLE sessions DROP COLUMN whole_epoch")
        db.commit()
    store = SqliteStore(path)
    assert not store.acquire(KEY, epoch_floor=0, new=None).whole
    store.release([Holding(KEY, 2, store.now_unix_s(), whole=True)])
    store.close()
    with closing(sqlite3.connect(path)) as db:
        # An older server activates it, and dies.
        db.execute("UPDATE sessions SET epoch = epoch + 1, held = 1")
        db.commit()
    store = SqliteStore(path)
    assert not store.acquire(KEY, epoch_floor=0, new=None).whole
    store.close()
