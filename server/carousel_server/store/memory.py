"""Sessions in this process's memory: for tests, simulations, and parking where nothing need survive."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from carousel_server.core.store import (
    HEAD_BYTES,
    NO_SNAPSHOT,
    Commit,
    First,
    NewSession,
    Outcome,
    Record,
    SessionKey,
    StoreStatistics,
    Verdict,
)
from carousel_server.core.types import Durability

from .faults import TOMBSTONE_S, check_floor, check_reason, gone, held
from .steady import SteadyClock

_UNLEASED_RETRY_S = 1.0
"""When to ask again for a session whose holder's lease never runs out."""


class _Owner(NamedTuple):
    """A replica's name, and which of its lives."""

    name: str
    boot: int


_NOBODY = _Owner("", 0)


class _Kept(NamedTuple):
    """One session; never changed, so that a medium is copied without copying it."""

    session: NewSession
    epoch: int
    seq: int
    snapshot: bytes
    last_used_unix_s: float
    owner: _Owner


class _Ended(NamedTuple):
    """Why a session ended, and when."""

    reason: str
    epoch: int
    at_unix_s: float


class _Lease(NamedTuple):
    """A replica's lease: whose life it belongs to, and until when."""

    boot: int
    until_unix_s: float


@dataclass(slots=True)
class MemoryMedium:
    """What survives a `MemoryStore`: several replicas, and restarts of them, share one."""

    sessions: dict[SessionKey, _Kept] = field(default_factory=dict)
    ended: dict[SessionKey, _Ended] = field(default_factory=dict)
    leases: dict[str, _Lease] = field(default_factory=dict)
    boots: int = 0

    def copy(self) -> MemoryMedium:
        """The medium as it is now; costs four small copies, no snapshot is touched."""
        return MemoryMedium(self.sessions.copy(), self.ended.copy(), self.leases.copy(), self.boots)

    def roll_back(self, earlier: MemoryMedium) -> None:
        """Becomes as `earlier` was. Boots go on counting: they must stay unique."""
        self.sessions = earlier.sessions.copy()
        self.ended = earlier.ended.copy()
        self.leases = earlier.leases.copy()


class MemoryStore:
    """Implements `core.store.Store`, with the leases of the redis store where a TTL is given.

    Args:
        medium: where the sessions are; one of its own if None.
        owner: the replica's name. A store of the same name takes over at once.
        now: Unix seconds, which also time the leases; steady ones if None.
        lease_ttl_s: how long a lease lives without `renew`.
    """

    name = "memory"
    levels = frozenset({Durability.ASYNC, Durability.SYNC})

    def __init__(
        self,
        medium: MemoryMedium | None = None,
        *,
        owner: str = "memory",
        now: Callable[[], float] | None = None,
        lease_ttl_s: float = math.inf,
    ) -> None:
        self.medium = MemoryMedium() if medium is None else medium
        self.lease_ttl_s = lease_ttl_s
        self._now = SteadyClock() if now is None else now
        self.medium.boots += 1
        self._me = _Owner(owner, self.medium.boots)
        self._take_lease()

    def acquire(
        self,
        key: SessionKey,
        *,
        epoch_floor: int,
        new: NewSession | None,
        first: First = NO_SNAPSHOT,
    ) -> Record:
        """See `Store.acquire`."""
        check_floor(epoch_floor)
        now, kept = self._now(), self.medium.sessions.get(key)
        if kept is not None:
            left_s = self._lease_left_s(kept.owner, now)
            if left_s > 0 and kept.owner.name != self._me.name:
                raise held(key, left_s if math.isfinite(left_s) else _UNLEASED_RETRY_S)
            if left_s <= 0 and _is_expired(kept, now):
                self._end(key, kept.epoch, "SESSION_EXPIRED", now)
                kept = None
        created = kept is None
        if kept is None:
            ended = self.medium.ended.get(key)
            if new is None:
                raise gone(key, ended.reason if ended else None)
            self.medium.ended.pop(key, None)
            former = ended.epoch if ended else 0
            kept = _Kept(new, former, first.seq, first.snapshot, now, _NOBODY)
        epoch = max(kept.epoch, epoch_floor) + 1
        kept = _Kept(kept.session, epoch, kept.seq, kept.snapshot, now, self._me)
        self.medium.sessions[key] = kept
        return Record(key, kept.session, epoch, kept.seq, kept.snapshot, now, True, created)

    def commit(self, commits: Sequence[Commit], *, fsync: bool) -> list[Outcome]:
        """See `Store.commit`; memory is as safe with `fsync` as without."""
        del fsync
        return [self._commit_one(one) for one in commits]

    def release(self, held: Sequence[tuple[SessionKey, int, float]]) -> None:
        """See `Store.release`."""
        for key, epoch, last_used_unix_s in held:
            kept = self.medium.sessions.get(key)
            if kept is not None and kept.epoch == epoch:
                self.medium.sessions[key] = _Kept(
                    kept.session, epoch, kept.seq, kept.snapshot, last_used_unix_s, _NOBODY
                )

    def remove(self, key: SessionKey, epoch: int, reason: str) -> Verdict:
        """See `Store.remove`."""
        check_reason(reason)
        kept, ended = self.medium.sessions.get(key), self.medium.ended.get(key)
        if kept is None:
            return Verdict.DONE if ended and ended.epoch == epoch else Verdict.FENCED
        if kept.epoch != epoch:
            return Verdict.FENCED
        self._end(key, epoch, reason, self._now())
        return Verdict.DONE

    def read(self, key: SessionKey) -> Record:
        """See `Store.read`."""
        kept = self.medium.sessions.get(key)
        if kept is None:
            ended = self.medium.ended.get(key)
            raise gone(key, ended.reason if ended else None)
        now = self._now()
        record = self._facts(key, kept, now)
        if not record.held and _is_expired(kept, now):
            raise gone(key, "SESSION_EXPIRED")
        return record

    def list(self, tenant: str, after: str, limit: int, model: str = "") -> list[Record]:
        """See `Store.list`."""
        now = self._now()
        records: list[Record] = []
        keys = (k for k in self.medium.sessions if k.tenant == tenant and k.id > after)
        for key in sorted(keys):
            kept = self.medium.sessions[key]
            record = self._facts(key, kept, now)
            expired = not record.held and _is_expired(kept, now)
            if len(records) < limit and not expired and model in ("", kept.session.model):
                records.append(record)
        return records

    def renew(self) -> bool:
        """See `Store.renew`."""
        kept = self._lease_left_s(self._me, self._now()) > 0
        self._take_lease()
        return kept

    def now_unix_s(self) -> float:
        """See `Store.now_unix_s`."""
        return self._now()

    def sweep(self, now_unix_s: float, limit: int) -> int:
        """See `Store.sweep`."""
        old = [k for k, e in self.medium.ended.items() if e.at_unix_s < now_unix_s - TOMBSTONE_S]
        for key in old:
            del self.medium.ended[key]
        now = self._now()
        expired = [
            key
            for key, kept in self.medium.sessions.items()
            if _is_expired(kept, now_unix_s) and self._lease_left_s(kept.owner, now) <= 0
        ][:limit]
        for key in expired:
            self._end(key, self.medium.sessions[key].epoch, "SESSION_EXPIRED", now_unix_s)
        return len(expired)

    def statistics(self) -> StoreStatistics:
        """See `Store.statistics`; the bytes are those of the snapshots."""
        sessions = self.medium.sessions
        return StoreStatistics(len(sessions), sum(len(kept.snapshot) for kept in sessions.values()))

    def usage(self, tenant: str) -> StoreStatistics:
        """See `Store.usage`."""
        sizes = [
            len(kept.snapshot) for key, kept in self.medium.sessions.items() if key.tenant == tenant
        ]
        return StoreStatistics(len(sizes), sum(sizes))

    def close(self) -> None:
        """See `Store.close`; the medium stays as it is."""
        lease = self.medium.leases.get(self._me.name)
        if lease is not None and lease.boot == self._me.boot:
            del self.medium.leases[self._me.name]

    def _commit_one(self, one: Commit) -> Outcome:
        """Rule R4."""
        kept = self.medium.sessions.get(one.key)
        if kept is None:
            return Outcome(Verdict.FENCED, 0, 0)
        if kept.epoch != one.epoch:
            return Outcome(Verdict.FENCED, kept.epoch, kept.seq)
        if one.seq < kept.seq:
            return Outcome(Verdict.STALE, kept.epoch, kept.seq)
        self.medium.sessions[one.key] = _Kept(
            kept.session, kept.epoch, one.seq, one.snapshot, one.last_used_unix_s, kept.owner
        )
        return Outcome(Verdict.DONE, one.epoch, one.seq)

    def _end(self, key: SessionKey, epoch: int, reason: str, now: float) -> None:
        del self.medium.sessions[key]
        self.medium.ended[key] = _Ended(reason, epoch, now)

    def _facts(self, key: SessionKey, kept: _Kept, now: float) -> Record:
        is_held = self._lease_left_s(kept.owner, now) > 0
        return Record(
            *(key, kept.session, kept.epoch, kept.seq, b"", kept.last_used_unix_s),
            held=is_held,
            head=kept.snapshot[:HEAD_BYTES],
        )

    def _take_lease(self) -> None:
        until_unix_s = self._now() + self.lease_ttl_s
        self.medium.leases[self._me.name] = _Lease(self._me.boot, until_unix_s)

    def _lease_left_s(self, owner: _Owner, now: float) -> float:
        """How long this life of this replica still holds what it has; 0 or less if it does not."""
        lease = self.medium.leases.get(owner.name)
        if lease is None or lease.boot != owner.boot:
            return 0.0
        return lease.until_unix_s - now


def _is_expired(kept: _Kept, now_unix_s: float) -> bool:
    return now_unix_s - kept.last_used_unix_s > kept.session.idle_ttl_s
