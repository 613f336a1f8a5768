"""A store in this process's memory: for tests, simulations, and parking without durability."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from typing_extensions import override

from carousel_server.core.replicas import KEPT_S, MAIL_MOST, MAIL_S, UNANNOUNCED
from carousel_server.core.store import (
    HEAD_BYTES,
    NO_SNAPSHOT,
    Announcement,
    Asked,
    Commit,
    First,
    Held,
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

from .faults import TOMBSTONE_S, check_floor, check_reason, gone
from .steady import SteadyClock

_UNLEASED_RETRY_S = 1.0
"""Retry hint for a session whose holder's lease never expires."""


class _Owner(NamedTuple):
    """A replica's name, and the number of its start."""

    name: str
    boot: int


_NOBODY = _Owner("", 0)


class _Kept(NamedTuple):
    """One session. It is immutable, so copies of a medium share it."""

    session: NewSession
    epoch: int
    seq: int
    snapshot: bytes
    last_used_unix_s: float
    owner: _Owner
    # The epoch in which it was released as whole.
    whole_epoch: int = 0


class _Ended(NamedTuple):
    """Why a session ended, and when."""

    reason: str
    epoch: int
    at_unix_s: float


class _Lease(NamedTuple):
    """A replica's lease: the number of its start, when the lease expires, and the announcement."""

    boot: int
    until_unix_s: float
    said: Announcement


class _Mail(NamedTuple):
    """A request in a mailbox, and when it expires."""

    asked: Asked
    until_unix_s: float


class _Answer(NamedTuple):
    """A holder's answer that it keeps a session, and when the answer expires."""

    owner: _Owner
    until_unix_s: float


@dataclass(slots=True)
class MemoryMedium:
    """The data of a `MemoryStore`. Several replicas, and restarts of them, can share it."""

    sessions: dict[SessionKey, _Kept] = field(default_factory=dict)
    ended: dict[SessionKey, _Ended] = field(default_factory=dict)
    leases: dict[str, _Lease] = field(default_factory=dict)
    boots: int = 0
    mailboxes: dict[str, deque[_Mail]] = field(default_factory=dict)
    answers: dict[SessionKey, _Answer] = field(default_factory=dict)

    def copy(self) -> MemoryMedium:
        """A copy of the medium, without mailboxes. It shares the snapshots."""
        return MemoryMedium(self.sessions.copy(), self.ended.copy(), self.leases.copy(), self.boots)

    def roll_back(self, earlier: MemoryMedium) -> None:
        """Restores an earlier copy, but for the boot numbers, which must stay unique.

        Mailboxes are lost.
        """
        self.mailboxes.clear()
        self.answers.clear()
        self.sessions = earlier.sessions.copy()
        self.ended = earlier.ended.copy()
        self.leases = earlier.leases.copy()


class MemoryStore(Store):
    """A store in memory. With a TTL it has leases as the Redis store has.

    Args:
        medium: has the sessions. None makes a new one.
        owner: the replica's name. A new store with the same name has its sessions at once.
        now: Unix seconds, for the leases too. None uses a SteadyClock.
        lease_ttl_s: how long a lease lasts without `renew`.
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
        self._take_lease(UNANNOUNCED)

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
        now, kept = self._now(), self.medium.sessions.get(key)
        if kept is not None:
            left_s = self._lease_left_s(kept.owner, now)
            if left_s > 0 and kept.owner.name != self._me.name:
                raise self._held(key, kept.owner, left_s, now)
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
        epoch, whole = max(kept.epoch, epoch_floor) + 1, created or kept.whole_epoch == kept.epoch
        kept = _Kept(kept.session, epoch, kept.seq, kept.snapshot, now, self._me)
        self.medium.sessions[key] = kept
        return Record(
            *(key, kept.session, epoch, kept.seq, kept.snapshot, now),
            holder=Holder(self._me.name, self._said.address, is_own=True),
            created=created,
            whole=whole,
        )

    @override
    def commit(self, commits: Sequence[Commit], *, fsync: bool) -> list[Outcome]:
        # `fsync` makes no difference in memory.
        del fsync
        return [self._commit_one(one) for one in commits]

    @override
    def release(self, held: Sequence[Holding]) -> None:
        for key, epoch, last_used_unix_s, whole in held:
            kept = self.medium.sessions.get(key)
            if kept is not None and kept.epoch == epoch:
                self.medium.sessions[key] = kept._replace(
                    last_used_unix_s=last_used_unix_s,
                    owner=_NOBODY,
                    whole_epoch=epoch if whole else 0,
                )

    @override
    def remove(self, key: SessionKey, epoch: int, reason: str) -> Verdict:
        check_reason(reason)
        kept, ended = self.medium.sessions.get(key), self.medium.ended.get(key)
        if kept is None:
            return Verdict.DONE if ended and ended.epoch == epoch else Verdict.FENCED
        if kept.epoch != epoch:
            return Verdict.FENCED
        self._end(key, epoch, reason, self._now())
        return Verdict.DONE

    @override
    def read(self, key: SessionKey) -> Record:
        kept = self.medium.sessions.get(key)
        if kept is None:
            ended = self.medium.ended.get(key)
            raise gone(key, ended.reason if ended else None)
        now = self._now()
        record = self._facts(key, kept, now)
        if not record.held and _is_expired(kept, now):
            raise gone(key, "SESSION_EXPIRED")
        return record

    @override
    def list(self, tenant: str, after: str, limit: int, model: str = "") -> list[Record]:
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

    @override
    def renew(self, said: Announcement = UNANNOUNCED) -> bool:
        kept = self._lease_left_s(self._me, self._now()) > 0
        self._take_lease(said)
        return kept

    @override
    def replicas(self) -> Sequence[Replica]:
        now = self._now()
        return [
            Replica(name, lease.said)
            for name, lease in sorted(self.medium.leases.items())
            if lease.until_unix_s > now and lease.said.address
        ]

    @override
    def ask_for(self, key: SessionKey, holder: str, *, take_over: bool, by: str) -> None:
        box, now = self.medium.mailboxes.setdefault(holder, deque()), self._now()
        while box and box[0].until_unix_s <= now:
            box.popleft()
        if len(box) < MAIL_MOST:
            box.append(_Mail(Asked(key, take_over, by), now + MAIL_S))

    @override
    def asked(self, limit: int) -> Sequence[Asked]:
        box, now = self.medium.mailboxes.get(self._me.name, deque()), self._now()
        taken = [box.popleft() for _ in range(min(limit, len(box)))]
        return [mail.asked for mail in taken if mail.until_unix_s > now]

    @override
    def keep(self, keys: Sequence[SessionKey]) -> None:
        now, answers = self._now(), self.medium.answers
        for key in [key for key, answer in answers.items() if answer.until_unix_s <= now]:
            del answers[key]
        for key in keys:
            kept = self.medium.sessions.get(key)
            if kept is not None and kept.owner == self._me:
                answers[key] = _Answer(self._me, now + KEPT_S)

    @override
    def now_unix_s(self) -> float:
        return self._now()

    @override
    def sweep(self, now_unix_s: float, limit: int) -> int:
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

    @override
    def statistics(self) -> StoreStatistics:
        # The bytes are those of the snapshots.
        sessions = self.medium.sessions
        return StoreStatistics(len(sessions), sum(len(kept.snapshot) for kept in sessions.values()))

    @override
    def usage(self, tenant: str) -> StoreStatistics:
        sizes = [
            len(kept.snapshot) for key, kept in self.medium.sessions.items() if key.tenant == tenant
        ]
        return StoreStatistics(len(sizes), sum(sizes))

    @override
    def close(self) -> None:
        # The medium is not changed.
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
        return Record(
            *(key, kept.session, kept.epoch, kept.seq, b"", kept.last_used_unix_s),
            holder=self._holder(kept.owner, now),
            head=kept.snapshot[:HEAD_BYTES],
        )

    def _holder(self, owner: _Owner, now: float) -> Holder | None:
        """The replica, while its lease lasts."""
        if self._lease_left_s(owner, now) <= 0:
            return None
        address = self.medium.leases[owner.name].said.address
        return Holder(owner.name, address, is_own=owner.name == self._me.name)

    def _take_lease(self, said: Announcement) -> None:
        self._said, until_unix_s = said, self._now() + self.lease_ttl_s
        self.medium.leases[self._me.name] = _Lease(self._me.boot, until_unix_s, said)

    def _held(self, key: SessionKey, owner: _Owner, left_s: float, now: float) -> Held:
        answer = self.medium.answers.get(key)
        return Held(
            key,
            left_s if math.isfinite(left_s) else _UNLEASED_RETRY_S,
            owner.name,
            address=self.medium.leases[owner.name].said.address,
            kept=answer is not None and answer.owner == owner and answer.until_unix_s > now,
        )

    def _lease_left_s(self, owner: _Owner, now: float) -> float:
        """Remaining time of a holder's lease. 0 or less if it has expired."""
        lease = self.medium.leases.get(owner.name)
        if lease is None or lease.boot != owner.boot:
            return 0.0
        return lease.until_unix_s - now


def _is_expired(kept: _Kept, now_unix_s: float) -> bool:
    return now_unix_s - kept.last_used_unix_s > kept.session.idle_ttl_s
