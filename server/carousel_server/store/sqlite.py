"""A store in one SQLite file, for one server. It needs no other program."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from math import inf
from pathlib import Path
from typing import Any

from typing_extensions import override

from carousel_server.core.failpoints import hit
from carousel_server.core.replicas import UNANNOUNCED
from carousel_server.core.store import (
    HEAD_BYTES,
    NO_SNAPSHOT,
    Announcement,
    Asked,
    Commit,
    First,
    Holder,
    Holding,
    NewSession,
    Outcome,
    Record,
    Replica,
    SessionKey,
    Store,
    StoreStatistics,
    Verdict,
)
from carousel_server.core.types import Durability

from . import sqlite_file
from .backup import BackupDoor
from .faults import TOMBSTONE_S, check_floor, check_reason, gone, unavailable
from .steady import SteadyClock

# ruff: noqa: S608 - statements are made of these constants, and values are always bound
_FACTS = (
    "tenant, id, epoch, seq, held, last_used_unix_s, "
    "idle_ttl_s, model, durability, seed, created_at_unix_s"
)
_HEAD = f"coalesce(substr(snapshot, 1, {HEAD_BYTES}), x'')"
_EXPIRED = "held = 0 AND last_used_unix_s + idle_ttl_s < ?"
_VACUUM_ABOVE_PAGES = 1024
"""Unused pages that the file may have. The next snapshots use them."""
_VACUUM_AT_ONCE_PAGES = 256


class SqliteStore(Store):
    """A store in a SQLite file. One process uses it, and one thread at a time.

    Each commit writes the log without a sync, and survives the death of the process. `fsync` syncs it.
    Leases never expire, because `<path>.lock` excludes other processes.

    Args:
        path: the file, which is made if it does not exist.
        owner: the replica's name.
        now: Unix seconds. None uses a SteadyClock.

    Raises:
        StoreError: the file cannot be used. See `sqlite_file`.
    """

    name = "sqlite"
    levels = frozenset({Durability.ASYNC, Durability.SYNC, Durability.SYNC_FSYNC})
    lease_ttl_s = inf
    # The number of this server in the column `held`, where 0 is no server.
    _holder = 1

    def __init__(
        self, path: Path, *, owner: str = "sqlite", now: Callable[[], float] | None = None
    ) -> None:
        self._owner, self._said = owner, UNANNOUNCED
        self._now = SteadyClock() if now is None else now
        self._open(path)
        self._synced = False
        self._sessions = self._count()

    def _open(self, path: Path) -> None:
        """Locks and opens the file."""
        self._lock = sqlite_file.lock(path)
        try:
            self._db = sqlite_file.connect(path)
        except BaseException:
            self._lock.close()
            raise
        self._door: BackupDoor | None = BackupDoor(path, self._db)

    @override
    def acquire(
        self,
        key: SessionKey,
        *,
        epoch_floor: int,
        new: NewSession | None,
        first: First = NO_SNAPSHOT,
    ) -> Record:
        check_floor(epoch_floor)
        with self._transaction():
            self._check_holder(key)
            ended = self._end_if_expired(key)
            record = None if ended else self._activated(key, epoch_floor)
            if record is None and new is not None:
                record = self._opened(key, epoch_floor, new, first)
            reason = None if record else self._why_gone(key)
        self._sessions += int(record is not None and record.created) - int(ended)
        if record is None:
            raise gone(key, reason)
        return record

    @override
    def commit(self, commits: Sequence[Commit], *, fsync: bool) -> list[Outcome]:
        outcomes = []
        with self._transaction(fsync=fsync):
            for one in commits:
                outcomes.append(self._commit_one(one))
                if len(outcomes) == 1:
                    hit("in_commit")
        return outcomes

    @override
    def release(self, held: Sequence[Holding]) -> None:
        with self._transaction():
            self._db.executemany(
                "UPDATE sessions SET held = 0, last_used_unix_s = ?, whole_epoch = ? "
                "WHERE tenant = ? AND id = ? AND epoch = ?",
                [
                    (used, epoch if whole else 0, key.tenant, key.id, epoch)
                    for key, epoch, used, whole in held
                ],
            )

    @override
    def remove(self, key: SessionKey, epoch: int, reason: str) -> Verdict:
        check_reason(reason)
        with self._transaction():
            removed = self._db.execute(
                "DELETE FROM sessions WHERE tenant = ? AND id = ? AND epoch = ?", (*key, epoch)
            ).rowcount
            if removed:
                self._bury(key, epoch, reason, self._now())
            done = self._db.execute(
                "SELECT 1 FROM ended WHERE tenant = ? AND id = ? AND epoch = ?", (*key, epoch)
            ).fetchone()
        self._sessions -= removed
        return Verdict.DONE if done else Verdict.FENCED

    @override
    def read(self, key: SessionKey) -> Record:
        with self._faults():
            row = self._db.execute(
                f"SELECT {_FACTS}, x'', {_HEAD}, {_EXPIRED} FROM sessions WHERE tenant = ? AND id = ?",
                (self._now(), *key),
            ).fetchone()
            reason = None if row else self._why_gone(key)
        if row is None or row[-1]:
            raise gone(key, "SESSION_EXPIRED" if row else reason)
        return _record(row, self._holders().get(row[4]), row[12])

    @override
    def list(self, tenant: str, after: str, limit: int, model: str = "") -> list[Record]:
        with self._faults():
            rows = self._db.execute(
                f"SELECT {_FACTS}, x'', {_HEAD} FROM sessions WHERE tenant = ? AND id > ? "
                f"AND (? = '' OR model = ?) AND NOT ({_EXPIRED}) ORDER BY id LIMIT ?",
                (tenant, after, model, model, self._now(), limit),
            ).fetchall()
        holders = self._holders()
        return [_record(row, holders.get(row[4]), row[12]) for row in rows]

    @override
    def renew(self, said: Announcement = UNANNOUNCED) -> bool:
        # The lock never expires.
        self._said = said
        return True

    @override
    def replicas(self) -> Sequence[Replica]:
        return [Replica(self._owner, self._said)] if self._said.address else []

    @override
    def ask_for(self, key: SessionKey, holder: str, *, take_over: bool, by: str) -> None:
        # Only one process uses the file, so no other replica could hold a session.
        pass

    @override
    def asked(self, limit: int) -> Sequence[Asked]:
        return ()

    @override
    def keep(self, keys: Sequence[SessionKey]) -> None:
        # No other replica can ask.
        pass

    @override
    def now_unix_s(self) -> float:
        return self._now()

    @override
    def sweep(self, now_unix_s: float, limit: int) -> int:
        # It frees some of the unused space too.
        with self._transaction():
            rows = self._db.execute(
                f"SELECT tenant, id, epoch, rowid FROM sessions WHERE {_EXPIRED} LIMIT ?",
                (now_unix_s, limit),
            ).fetchall()
            for tenant, session_id, epoch, rowid in rows:
                self._db.execute("DELETE FROM sessions WHERE rowid = ?", (rowid,))
                self._bury(SessionKey(tenant, session_id), epoch, "SESSION_EXPIRED", now_unix_s)
            self._db.execute("DELETE FROM ended WHERE at_unix_s < ?", (now_unix_s - TOMBSTONE_S,))
        self._sessions -= len(rows)
        with self._faults(), self._turn():
            if self._pragma("freelist_count") > _VACUUM_ABOVE_PAGES:
                # A script, because each freed page is a step of the statement.
                self._db.executescript(f"PRAGMA incremental_vacuum({_VACUUM_AT_ONCE_PAGES});")
        return len(rows)

    @override
    def statistics(self) -> StoreStatistics:
        # The bytes are those of the file without its log.
        with self._faults():
            return StoreStatistics(
                self._sessions, self._pragma("page_count") * self._pragma("page_size")
            )

    @override
    def usage(self, tenant: str) -> StoreStatistics:
        with self._faults():
            row = self._db.execute(
                "SELECT COUNT(*), COALESCE(SUM(LENGTH(snapshot)), 0) FROM sessions WHERE tenant = ?",
                (tenant,),
            ).fetchone()
        return StoreStatistics(*row)

    @override
    def close(self) -> None:
        # After it, all data are in the file and the log is empty.
        if self._lock.closed:
            return
        if self._door is not None:
            self._door.close()
        try:
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error:
            pass  # the data are in the log, which the next server reads
        finally:
            self._db.close()
            self._lock.close()

    def _own(self) -> Holder:
        """This server as a holder."""
        return Holder(self._owner, self._said.address, is_own=True)

    def _holders(self) -> Mapping[int, Holder]:
        """The live servers by their numbers in the column `held`. Read it after that column."""
        return {self._holder: self._own()}

    # -- inside a transaction

    def _check_holder(self, key: SessionKey) -> None:
        """Never raises SESSION_HELD, because this server is the only one."""

    def _commit_one(self, one: Commit) -> Outcome:
        """Rule R4: one statement compares and writes."""
        written = self._db.execute(
            "UPDATE sessions SET seq = ?, snapshot = ?, last_used_unix_s = ? "
            "WHERE tenant = ? AND id = ? AND epoch = ? AND seq <= ?",
            (one.seq, one.snapshot, one.last_used_unix_s, *one.key, one.epoch, one.seq),
        ).rowcount
        if written:
            return Outcome(Verdict.DONE, one.epoch, one.seq)
        epoch, seq = self._db.execute(
            "SELECT epoch, seq FROM sessions WHERE tenant = ? AND id = ?", one.key
        ).fetchone() or (0, 0)
        return Outcome(Verdict.STALE if epoch == one.epoch else Verdict.FENCED, epoch, seq)

    def _activated(self, key: SessionKey, epoch_floor: int) -> Record | None:
        # `whole_epoch` is 1 afterwards if the session was whole. No epoch is 1 after a second activation.
        row = self._db.execute(
            "UPDATE sessions SET held = ?, epoch = max(epoch, ?) + 1, last_used_unix_s = ?, "
            "whole_epoch = (whole_epoch = epoch) "
            f"WHERE tenant = ? AND id = ? RETURNING {_FACTS}, snapshot, whole_epoch",
            (self._holder, epoch_floor, self._now(), *key),
        ).fetchone()
        return _record(row, self._own(), whole=bool(row[12])) if row else None

    def _opened(self, key: SessionKey, epoch_floor: int, new: NewSession, first: First) -> Record:
        former = self._db.execute(
            "DELETE FROM ended WHERE tenant = ? AND id = ? RETURNING epoch", key
        ).fetchone()
        epoch, now = max(former[0] if former else 0, epoch_floor) + 1, self._now()
        self._db.execute(
            f"INSERT INTO sessions ({_FACTS}, snapshot) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(*key, epoch, first.seq, self._holder, now),
                *(new.idle_ttl_s, new.model, int(new.durability)),
                *(str(new.seed), new.created_at_unix_s, first.snapshot),
            ),
        )
        facts = (key, new, epoch, first.seq, first.snapshot, now, self._own())
        return Record(*facts, created=True, whole=True)

    def _end_if_expired(self, key: SessionKey) -> bool:
        row = self._db.execute(
            f"DELETE FROM sessions WHERE tenant = ? AND id = ? AND {_EXPIRED} RETURNING epoch",
            (*key, self._now()),
        ).fetchone()
        if row is not None:
            self._bury(key, row[0], "SESSION_EXPIRED", self._now())
        return row is not None

    def _bury(self, key: SessionKey, epoch: int, reason: str, now_unix_s: float) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO ended VALUES (?, ?, ?, ?, ?)", (*key, epoch, reason, now_unix_s)
        )

    def _why_gone(self, key: SessionKey) -> str | None:
        row = self._db.execute(
            "SELECT reason FROM ended WHERE tenant = ? AND id = ?", key
        ).fetchone()
        return row[0] if row else None

    def _count(self) -> int:
        """Sessions in the file, those included that have expired."""
        return int(self._db.execute("SELECT count(*) FROM sessions").fetchone()[0])

    def _pragma(self, name: str) -> int:
        return int(self._db.execute(f"PRAGMA {name}").fetchone()[0])

    # -- transactions and their faults

    @contextmanager
    def _transaction(self, *, fsync: bool = False) -> Iterator[None]:
        """A transaction. A fault of the medium raises STORE_UNAVAILABLE."""
        with self._faults(), self._turn():
            if fsync is not self._synced:
                self._db.execute(f"PRAGMA synchronous = {'FULL' if fsync else 'NORMAL'}")
                self._synced = fsync
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                self._roll_back()
                raise

    def _turn(self) -> AbstractContextManager[object]:
        """The right to write. This server is the only one, so it always has it."""
        return nullcontext()

    def _roll_back(self) -> None:
        if self._db.in_transaction:  # after some faults SQLite has rolled back itself
            self._db.execute("ROLLBACK")

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            full = getattr(error, "sqlite_errorname", "") == "SQLITE_FULL"
            raise unavailable("the store's disk is full" if full else "the store fails") from error


def _record(
    row: tuple[Any, ...], holder: Holder | None, head: bytes = b"", *, whole: bool = False
) -> Record:
    """A record from the columns of `_FACTS` and a snapshot. `holder` stands for the column `held`."""
    tenant, session_id, epoch, seq, _, used, ttl, model, durability, seed, created, snapshot = row[
        :12
    ]
    return Record(
        SessionKey(tenant, session_id),
        NewSession(model, Durability(durability), ttl, int(seed), created),
        epoch,
        seq,
        snapshot,
        used,
        holder,
        head=head,
        whole=whole,
    )
