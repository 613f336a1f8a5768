"""A store in one SQLite file, for several servers on one machine. It needs no other program."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import IO

from typing_extensions import override

from carousel_server.core.replicas import KEPT_S, MAIL_MOST, MAIL_S, UNANNOUNCED
from carousel_server.core.store import (
    NO_SNAPSHOT,
    Announcement,
    Asked,
    First,
    Held,
    Holder,
    NewSession,
    Record,
    Replica,
    SessionKey,
    StoreStatistics,
)

from . import sqlite_file
from .faults import StoreError
from .sqlite import SqliteStore
from .steady import SteadyClock

# ruff: noqa: S608 - statements are made of constants, and values are always bound
# `sessions.held` is the number of a replica here. Its index has no entry of a free session. The tables have
# nothing that outlives the replicas, so the first replica makes them anew, in the form of its version.
_SCHEMA = """
DROP TABLE IF EXISTS clock;
CREATE TABLE clock (offset_s REAL NOT NULL);
DROP TABLE IF EXISTS replicas;
CREATE TABLE replicas (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    until_s REAL NOT NULL,
    address TEXT NOT NULL,
    accepting INTEGER NOT NULL,
    sessions INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS held_by ON sessions (held) WHERE held <> 0;
DROP TABLE IF EXISTS mail;
CREATE TABLE mail (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    holder TEXT NOT NULL,
    tenant TEXT NOT NULL,
    id TEXT NOT NULL,
    take_over INTEGER NOT NULL,
    asker TEXT NOT NULL,
    until_s REAL NOT NULL
);
CREATE INDEX mail_by_holder ON mail (holder);
CREATE INDEX mail_by_time ON mail (until_s);
DROP TABLE IF EXISTS kept;
CREATE TABLE kept (
    tenant TEXT NOT NULL,
    id TEXT NOT NULL,
    holder INTEGER NOT NULL,
    until_s REAL NOT NULL,
    PRIMARY KEY (tenant, id)
) WITHOUT ROWID;
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
        if first:
            # The clock too: the machine may have started again, and then its monotonic clock did.
            offset_s = time.time() - time.monotonic()
            self._db.executescript(
                f"BEGIN IMMEDIATE; {_SCHEMA} INSERT INTO clock VALUES ({offset_s!r}); COMMIT;"
            )
        self._db.execute("BEGIN IMMEDIATE")
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
                "UPDATE replicas SET until_s = ?, address = ?, accepting = ?, sessions = ? "
                "WHERE number = ? AND until_s > ?",
                (now + self.lease_ttl_s, *_columns(said), self._holder, now),
            ).rowcount
            if not kept:
                self._begin_life()
        self._free_the_dead()
        return bool(kept)

    @override
    def replicas(self) -> Sequence[Replica]:
        with self._faults():
            rows = self._db.execute(
                "SELECT name, address, accepting, sessions FROM replicas "
                "WHERE until_s > ? AND address <> '' ORDER BY name",
                (self._now(),),
            ).fetchall()
        return [
            Replica(name, Announcement(a, bool(accepting), n)) for name, a, accepting, n in rows
        ]

    @override
    def ask_for(self, key: SessionKey, holder: str, *, take_over: bool, by: str) -> None:
        with self._transaction():
            now = self._now()
            self._db.execute("DELETE FROM mail WHERE until_s <= ?", (now,))
            (waiting,) = self._db.execute(
                "SELECT count(*) FROM mail WHERE holder = ?", (holder,)
            ).fetchone()
            if waiting < MAIL_MOST:
                self._db.execute(
                    "INSERT INTO mail (holder, tenant, id, take_over, asker, until_s) "
                    "VALUES (?, ?, ?, ?, ?, ?)",
                    (holder, *key, take_over, by, now + MAIL_S),
                )

    @override
    def asked(self, limit: int) -> Sequence[Asked]:
        oldest = "SELECT number FROM mail WHERE holder = ? ORDER BY number LIMIT ?"
        with self._faults():  # it is usually empty, and reading needs no turn
            if self._db.execute(oldest, (self._owner, 1)).fetchone() is None:
                return ()
        with self._transaction():
            rows = self._db.execute(
                f"DELETE FROM mail WHERE number IN ({oldest}) "
                "RETURNING number, tenant, id, take_over, asker, until_s",
                (self._owner, limit),
            ).fetchall()
        return [
            Asked(SessionKey(tenant, session_id), bool(take_over), by)
            for _, tenant, session_id, take_over, by, until_s in sorted(rows)
            if until_s > self._now()
        ]

    @override
    def keep(self, keys: Sequence[SessionKey]) -> None:
        with self._transaction():
            now = self._now()
            self._db.execute("DELETE FROM kept WHERE until_s <= ?", (now,))
            self._db.executemany(
                "INSERT OR REPLACE INTO kept SELECT tenant, id, held, ? FROM sessions "
                "WHERE tenant = ? AND id = ? AND held = ?",
                [(now + KEPT_S, *key, self._holder) for key in keys],
            )

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

    @override
    def _holders(self) -> Mapping[int, Holder]:
        with self._faults():
            rows = self._db.execute("SELECT number, name, address FROM replicas").fetchall()
        return {n: Holder(name, address, n == self._holder) for n, name, address in rows}

    # -- inside a transaction

    @override
    def _check_holder(self, key: SessionKey) -> None:
        now = self._now()
        row = self._db.execute(
            "SELECT number, replicas.until_s, name, address, kept.until_s > ? FROM sessions "
            "JOIN replicas ON number = held LEFT JOIN kept "
            "ON kept.tenant = sessions.tenant AND kept.id = sessions.id AND holder = held "
            "WHERE sessions.tenant = ? AND sessions.id = ?",
            (now, *key),
        ).fetchone()
        if row is not None and row[0] != self._holder:
            _, until_s, name, address, kept = row
            raise Held(key, max(until_s - now, 0.0), name, address=address, kept=bool(kept))

    def _begin_life(self) -> None:
        """Takes a lease with a new number, and frees what a former life of this replica held."""
        for (number,) in self._db.execute(
            "SELECT number FROM replicas WHERE name = ?", (self._owner,)
        ).fetchall():
            self._end_life(number)
        self._holder = self._db.execute(
            "INSERT INTO replicas (name, until_s, address, accepting, sessions) "
            "VALUES (?, ?, ?, ?, ?) RETURNING number",
            (self._owner, self._now() + self.lease_ttl_s, *_columns(self._said)),
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


def _columns(said: Announcement) -> tuple[str, bool, int]:
    return said.address, said.accepting, said.sessions


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
