"""A store in one SQLite file, for several servers on one machine. It needs no other program."""

from __future__ import annotations

import sqlite3
import time
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import IO

from typing_extensions import override

from carousel_server.core.replicas import UNANNOUNCED
from carousel_server.core.store import (
    NO_SNAPSHOT,
    Announcement,
    First,
    Held,
    NewSession,
    Record,
    SessionKey,
    StoreStatistics,
)

from . import sqlite_file
from .faults import StoreError
from .sqlite import SqliteStore
from .steady import SteadyClock

# `sessions.held` is the number of a replica here. Its index has no entry of a free session.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS replicas (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    until_s REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS held_by ON sessions (held) WHERE held <> 0;
CREATE TABLE IF NOT EXISTS clock (offset_s REAL NOT NULL);
"""


class SharedSqliteStore(SqliteStore):
    """A store in a SQLite file that several processes of one machine use. Used by one thread.

    Each replica has one lease, as a row of the file. Replicas take turns to write, and those that wait do
    not poll. A replica that is stopped in its turn stops all others, until it continues or is killed.

    Args:
        path: the file, which is made if it does not exist. It must be on a disk of this machine.
        owner: the replica's name. A new replica with the name of a former one frees what that one held.
        lease_ttl_s: how long a lease lasts without `renew`.

    Raises:
        StoreError: the file cannot be used, or a server that does not share has it open.
    """

    def __init__(self, path: Path, owner: str, lease_ttl_s: float = 10.0) -> None:
        self.lease_ttl_s = lease_ttl_s
        super().__init__(path, owner=owner)

    @override
    def _open(self, path: Path) -> None:
        self._door = None  # every process can read the file, so a copy needs no server
        self._turns = sqlite_file.open_turns(path)
        try:
            with self._turn():
                self._lock, first = _join(path)
                try:
                    self._db = sqlite_file.connect(path, shared=True, first=first)
                    self._enter(first)
                except BaseException:
                    self._lock.close()
                    raise
        except BaseException:
            self._turns.close()
            raise

    def _enter(self, first: bool) -> None:
        """Begins a life of this replica. Called with the turn."""
        self._db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
        self._db.execute("BEGIN IMMEDIATE")
        if first:
            # The machine may have started again, and then its monotonic clock did too.
            self._db.execute("DELETE FROM replicas")
            self._db.execute("DELETE FROM clock")
            self._db.execute("INSERT INTO clock VALUES (?)", (time.time() - time.monotonic(),))
        offset_s = self._db.execute("SELECT offset_s FROM clock").fetchone()[0]
        # On one machine, the monotonic clock is the same for all processes. So is this one.
        self._now = SteadyClock(offset_s + time.monotonic())
        self._begin_life()
        self._db.execute("COMMIT")

    @override
    def acquire(
        self,
        key: SessionKey,
        *,
        epoch_floor: int,
        new: NewSession | None,
        first: First = NO_SNAPSHOT,
    ) -> Record:
        self._free_the_dead()
        return super().acquire(key, epoch_floor=epoch_floor, new=new, first=first)

    @override
    def read(self, key: SessionKey) -> Record:
        self._free_the_dead()
        return super().read(key)

    @override
    def list(self, tenant: str, after: str, limit: int, model: str = "") -> list[Record]:
        self._free_the_dead()
        return super().list(tenant, after, limit, model)

    @override
    def renew(self, said: Announcement = UNANNOUNCED) -> bool:
        self._said = said
        with self._transaction():
            now = self._now()
            kept = self._db.execute(
                "UPDATE replicas SET until_s = ? WHERE number = ? AND until_s > ?",
                (now + self.lease_ttl_s, self._holder, now),
            ).rowcount
            if not kept:
                self._begin_life()
        self._free_the_dead()
        return bool(kept)

    @override
    def sweep(self, now_unix_s: float, limit: int) -> int:
        self._free_the_dead()
        return super().sweep(now_unix_s, limit)

    @override
    def statistics(self) -> StoreStatistics:
        with self._faults():
            self._sessions = self._count()  # others open and end sessions too
        return super().statistics()

    @override
    def close(self) -> None:
        if self._lock.closed:
            return
        # The last connection writes the log into the file, so closing needs the turn too.
        with self._turn():
            with suppress(sqlite3.Error):  # the lease then ends by itself
                self._db.execute("BEGIN IMMEDIATE")
                self._end_life(self._holder)
                self._db.execute("COMMIT")
            super().close()
        self._turns.close()

    # -- inside a transaction

    @override
    def _check_holder(self, key: SessionKey) -> None:
        row = self._db.execute(
            "SELECT number, until_s, name FROM sessions JOIN replicas ON number = held "
            "WHERE tenant = ? AND id = ?",
            key,
        ).fetchone()
        if row is not None and row[0] != self._holder:
            raise Held(key, max(row[1] - self._now(), 0.0), row[2])

    def _begin_life(self) -> None:
        """Takes a lease with a new number, and frees what a former life of this replica held."""
        for (number,) in self._db.execute(
            "SELECT number FROM replicas WHERE name = ?", (self._owner,)
        ).fetchall():
            self._end_life(number)
        self._holder = self._db.execute(
            "INSERT INTO replicas (name, until_s) VALUES (?, ?) RETURNING number",
            (self._owner, self._now() + self.lease_ttl_s),
        ).fetchone()[0]

    def _end_life(self, number: int) -> None:
        self._db.execute("UPDATE sessions SET held = 0 WHERE held = ?", (number,))
        self._db.execute("DELETE FROM replicas WHERE number = ?", (number,))

    # -- outside of a transaction

    def _free_the_dead(self) -> None:
        """Frees the sessions of replicas whose leases have expired. No turn is needed if there are none."""
        dead = "SELECT number FROM replicas WHERE until_s <= ? AND number <> ?"
        with self._faults():
            found = self._db.execute(dead, (self._now(), self._holder)).fetchall()
        if found:
            with self._transaction():
                for (number,) in self._db.execute(dead, (self._now(), self._holder)).fetchall():
                    self._end_life(number)

    @override
    def _turn(self) -> AbstractContextManager[object]:
        return sqlite_file.turn(self._turns)


def _join(path: Path) -> tuple[IO[str], bool]:
    """Locks the file together with other replicas. Returns the lock, and whether there are no others.

    Raises:
        StoreError: see `sqlite_file.lock`.
    """
    try:
        alone = sqlite_file.lock(path)
    except StoreError:
        return sqlite_file.lock(path, shared=True), False
    alone.close()
    return sqlite_file.lock(path, shared=True), True
