"""Several processes on one SQLite file: turns, leases, deaths and copies."""

from __future__ import annotations

import fcntl
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from carousel_server.core.errors import CarouselError
from carousel_server.core.store import SessionKey, Store, Verdict
from carousel_server.store import (
    SharedSqliteStore,
    SqliteStore,
    StoreError,
    back_up_store,
    open_store,
    sqlite_file,
)

from .media import ALICE, BOB, KEY, NEW, InSharedSqlite, commit

WRITER = """
import sys
from pathlib import Path
from carousel_server.core.store import Commit, NewSession, SessionKey
from carousel_server.core.types import Durability
from carousel_server.store import SharedSqliteStore, sqlite_file

path, name, checkpoints = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
store = SharedSqliteStore(path, name, 30.0)
store._db.execute(f"PRAGMA wal_autocheckpoint = {checkpoints}")
keys = [SessionKey("tenant", f"{name}-{n}") for n in range(4)]
new = NewSession("m", Durability.SYNC, 1e6, 1, 1.0)
records = [store.acquire(key, epoch_floor=0, new=new) for key in keys]
seq = records[0].seq
print(seq, flush=True)
while True:
    seq += 1
    group = [Commit(r.key, r.epoch, seq, bytes([seq % 256]) * 4096, 1e10) for r in records]
    assert {o.verdict.name for o in store.commit(group, fsync=False)} == {"DONE"}
    assert store.renew()
    print(seq, flush=True)
"""


@pytest.fixture
def alice(in_shared_sqlite: InSharedSqlite) -> Store:
    return in_shared_sqlite.open(ALICE)


@pytest.fixture
def bob(in_shared_sqlite: InSharedSqlite, alice: Store) -> Store:
    return in_shared_sqlite.open(BOB)


class Writer:
    """A process that commits without a pause. Use it as a context manager."""

    def __init__(self, path: Path, name: str, checkpoints: int = 50) -> None:
        self.name = name
        self.told = 0
        self.process = subprocess.Popen(
            [sys.executable, "-c", WRITER, path, name, str(checkpoints)],
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def until(self, seq: int) -> None:
        """Waits until it has committed `seq`."""
        assert self.process.stdout is not None
        while self.told < seq:
            self.told = int(self.process.stdout.readline())

    def kill(self) -> None:
        """kill -9. `told` is then the last seq that it has printed."""
        self.process.kill()
        if self.process.stdout is not None and not self.process.stdout.closed:
            lines = self.process.stdout.read().splitlines(keepends=True)
            self.told = max([self.told, *(int(line) for line in lines if line.endswith("\n"))])
            self.process.stdout.close()
        self.process.wait()


def test_a_lone_server_and_replicas_exclude_each_other(tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    alone = SqliteStore(path)
    with pytest.raises(StoreError, match="is in use by process"):
        SharedSqliteStore(path, ALICE)
    alone.acquire(KEY, epoch_floor=0, new=NEW)
    alone.close()
    shared = SharedSqliteStore(path, ALICE)
    assert shared.read(KEY).epoch == 1
    with pytest.raises(StoreError, match="is in use by process"):
        SqliteStore(path)
    shared.acquire(KEY, epoch_floor=0, new=None)
    shared.close()
    shared.close()
    again = SqliteStore(path)
    assert again.acquire(KEY, epoch_floor=0, new=None).epoch == 3
    again.close()


def test_a_process_that_has_ended_is_not_named_as_the_holder(tmp_path: Path) -> None:
    """The lock's file names the last replica that came, which may have ended before the others."""
    path = tmp_path / "sessions.db"
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with closing(SharedSqliteStore(path, ALICE, 1.0)):
        lock = path.with_name("sessions.db.lock")
        for noted in (f"{ended.pid}\n", ""):
            lock.write_text(noted)
            with pytest.raises(StoreError) as error:
                SqliteStore(path)
            assert f"is in use by another server (fuser {lock}" in str(error.value)


def test_the_first_replica_frees_what_former_lives_held(in_shared_sqlite: InSharedSqlite) -> None:
    """All have ended, also those whose leases would last: their processes had the file's lock."""
    alice = in_shared_sqlite.open(ALICE)
    alice.acquire(KEY, epoch_floor=0, new=NEW)
    in_shared_sqlite.kill(alice)
    bob = in_shared_sqlite.open(BOB)
    assert not bob.read(KEY).held
    assert bob.acquire(KEY, epoch_floor=0, new=None).epoch == 2


def test_a_later_replica_frees_nothing(alice: Store, bob: Store) -> None:
    alice.acquire(KEY, epoch_floor=0, new=NEW)
    assert bob.read(KEY).held
    with pytest.raises(CarouselError) as error:
        bob.acquire(KEY, epoch_floor=0, new=None)
    assert error.value.reason == "SESSION_HELD"


def test_a_lost_lease_frees_what_its_holder_takes_no_more(
    alice: Store, bob: Store, in_shared_sqlite: InSharedSqlite
) -> None:
    """The renewal begins a new life, so the sessions of the former one are anyone's."""
    alice.acquire(KEY, epoch_floor=0, new=NEW)
    in_shared_sqlite.run_out(ALICE)
    assert not alice.renew()
    assert bob.acquire(KEY, epoch_floor=0, new=None).epoch == 2


def test_all_replicas_have_the_same_time(
    in_shared_sqlite: InSharedSqlite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the machine's clock is set between their starts."""
    alice = in_shared_sqlite.open(ALICE)
    monkeypatch.setattr("time.time", lambda: 1e9)
    bob = in_shared_sqlite.open(BOB)
    before_s, between_s, after_s = alice.now_unix_s(), bob.now_unix_s(), alice.now_unix_s()
    assert before_s <= between_s + 1e-3
    assert between_s <= after_s + 1e-3
    assert before_s > 1.5e9


def test_each_replica_counts_the_sessions_of_all(alice: Store, bob: Store) -> None:
    for number in range(3):
        alice.acquire(SessionKey("tenant", f"s{number}"), epoch_floor=0, new=NEW)
    assert bob.statistics().sessions == alice.statistics().sessions == 3
    assert alice.remove(SessionKey("tenant", "s0"), 1, "SESSION_CLOSED") is Verdict.DONE
    assert bob.statistics().sessions == 2


def test_many_that_are_killed_lose_nothing_and_damage_nothing(tmp_path: Path) -> None:
    """Four processes write and checkpoint all the time. Each is killed in some moment, three times."""
    path, draw = tmp_path / "sessions.db", random.Random(13)
    told: dict[str, int] = {}
    for life in range(3):
        writers = [Writer(path, f"r{number}") for number in range(4)]
        for writer in writers:
            writer.until(told.get(writer.name, 0) + 30)
        for writer in draw.sample(writers, len(writers)):
            writer.until(writer.told + draw.randrange(20))
            writer.kill()
            told[writer.name] = writer.told
        store = SharedSqliteStore(path, "judge")
        assert store._db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        for name, seq in told.items():
            records = [
                store.acquire(SessionKey("tenant", f"{name}-{n}"), epoch_floor=0, new=None)
                for n in range(4)
            ]
            assert {record.seq for record in records} in ({seq}, {seq + 1}), (life, name)
            told[name] = records[0].seq
            assert {r.snapshot for r in records} == {bytes([told[name] % 256]) * 4096}
        store.close()


def test_a_killed_replica_leaves_its_turn_and_its_sessions(
    alice: Store, in_shared_sqlite: InSharedSqlite
) -> None:
    """The others write on at once, and have its sessions when its lease has run out."""
    with Writer(in_shared_sqlite.path, BOB) as bob:
        bob.until(20)
        bob.kill()
        alice.acquire(KEY, epoch_floor=0, new=NEW)
        key = SessionKey("tenant", f"{BOB}-0")
        with pytest.raises(CarouselError) as error:
            alice.acquire(key, epoch_floor=0, new=None)
        assert error.value.reason == "SESSION_HELD"
        in_shared_sqlite.run_out(BOB)
        record = alice.acquire(key, epoch_floor=0, new=None)
        assert (record.epoch, record.seq in (bob.told, bob.told + 1)) == (2, True)


def test_a_replica_that_is_stopped_in_its_turn_stops_the_others_until_it_is_killed(
    alice: Store, in_shared_sqlite: InSharedSqlite
) -> None:
    with Writer(in_shared_sqlite.path, BOB) as bob:
        bob.until(5)
        stopped_in_its_turn = False
        while not stopped_in_its_turn:
            bob.process.send_signal(signal.SIGSTOP)
            stopped_in_its_turn = not is_free(in_shared_sqlite.path)
            if not stopped_in_its_turn:
                bob.process.send_signal(signal.SIGCONT)
        done = threading.Event()

        def write() -> None:
            with sqlite_file.open_turns(in_shared_sqlite.path) as turns, sqlite_file.turn(turns):
                done.set()

        waiting = threading.Thread(target=write)
        waiting.start()
        assert not done.is_set()
        bob.kill()
        waiting.join(60)
        assert done.is_set()
    alice.acquire(KEY, epoch_floor=0, new=NEW)
    assert alice.commit([commit(1)], fsync=True)[0].verdict is Verdict.DONE


def is_free(path: Path) -> bool:
    """True if no process has the turn at this moment."""
    with sqlite_file.open_turns(path) as turns:
        try:
            fcntl.flock(turns, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def test_a_copy_is_whole_while_two_processes_write(in_shared_sqlite: InSharedSqlite) -> None:
    path = in_shared_sqlite.path
    with Writer(path, ALICE, 1000) as alice, Writer(path, BOB, 1000) as bob:
        for writer in (alice, bob):
            writer.until(10)
        for number in range(3):
            copied = path.with_name(f"copy{number}.db")
            assert back_up_store(str(path), copied).sessions == 8
            with closing(sqlite3.connect(copied)) as db:
                rows = db.execute("SELECT substr(id, 1, 5), seq FROM sessions").fetchall()
            assert len(set(rows)) == 2, "each group is there as a whole"


def test_sqlite_is_opened_as_the_setting_says(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path}/x.db"
    alice = open_store(url, replica=ALICE, lease_ttl_s=3.0, shared=True)
    bob = open_store(url, replica=BOB, lease_ttl_s=3.0, shared=True)
    assert (alice.name, bob.lease_ttl_s) == ("sqlite", 3.0)
    for store in (alice, bob):
        store.close()
    lone = open_store(url, replica=ALICE, lease_ttl_s=3.0)
    assert lone.lease_ttl_s > 1e9
    lone.close()


def test_what_cannot_be_shared_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="replicas cannot share it\nset --store sqlite:FILE"):
        open_store("memory", replica=ALICE, lease_ttl_s=3.0, shared=True)
    with pytest.raises(StoreError, match="leases cannot last 0 s\nset at least"):
        open_store(f"sqlite:{tmp_path}/x.db", replica=ALICE, lease_ttl_s=0.0, shared=True)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    path.write_bytes(b"no database at all, but long enough to have a header" * 20)
    with pytest.raises(StoreError, match="is not a store, or is damaged"):
        SharedSqliteStore(path, ALICE)
    assert is_free(path), "a failed start leaves its turn"
    sqlite_file.lock(path).close()
