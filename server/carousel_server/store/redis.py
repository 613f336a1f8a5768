"""A store in Redis or Valkey, for any number of replicas. The holder of the lease runs the session."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from typing_extensions import override

from carousel_server.core.failpoints import armed, hit
from carousel_server.core.store import (
    NO_SNAPSHOT,
    Commit,
    First,
    NewSession,
    Outcome,
    Record,
    SessionKey,
    Store,
    StoreStatistics,
    Verdict,
)
from carousel_server.core.types import Durability

from .faults import check_floor, check_reason, gone, held
from .redis_link import Call, RedisLink
from .steady import SteadyClock

_COMMITS_PER_CALL = 16
"""Sessions in one call. With 64 snapshots of 4 KiB, 16 were within a tenth of the best size, both under
appendfsync always and everysec. One session a call was slowest.
"""

_RELEASES_PER_CALL = 256
_LISTED_PER_CALL = 256
_VERDICTS = (Verdict.DONE, Verdict.FENCED, Verdict.STALE)


class RedisStore(Store):
    """A store in Redis, by the functions of carousel.lua. Used by one thread.

    A replica has one lease, and each session an epoch. A new replica with the name of a former one has its
    sessions at once, since no two replicas may have one name.

    Args:
        url: see `RedisLink`.
        owner: the replica's name, such as its address.
        lease_ttl_s: how long a lease lasts without `renew`.
        prefix: of all keys. Each deployment in one database needs its own.

    Raises:
        StoreError: see `RedisLink`.
    """

    name = "redis"

    def __init__(
        self, url: str, owner: str, lease_ttl_s: float = 10.0, *, prefix: str = "carousel"
    ) -> None:
        assert owner, "a replica needs a name"
        self.lease_ttl_s = lease_ttl_s
        self._owner = owner
        self._boot = secrets.token_hex(8)
        self._prefix = f"{{{prefix}}}:"
        # Two time-outs fit into a lease, so a lost server is noticed before it expires.
        self._link = RedisLink(url, timeout_s=max(lease_ttl_s / 4, 0.1))
        levels = {Durability.ASYNC, Durability.SYNC}
        if self._link.is_fsynced():
            levels.add(Durability.SYNC_FSYNC)
        self.levels = frozenset(levels)
        self._closed = False
        self._time = SteadyClock(self._link.unix_s())
        self.renew()

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
        opening = () if new is None else _opening(new, first)
        arguments = (self._prefix, *key, self._owner, self._boot, str(epoch_floor), *opening)
        answer = self._link.call("acquire", [self._key(key)], arguments)
        if answer[0] == b"HELD":
            raise held(key, answer[1] / 1000)
        _, created, facts, snapshot = _unless_gone(key, answer)
        record = _record(key, facts, is_held=True, head=b"")
        return replace(record, snapshot=snapshot, created=bool(created))

    @override
    def commit(self, commits: Sequence[Commit], *, fsync: bool) -> list[Outcome]:
        # Each session is a transaction of its own.
        assert not fsync or Durability.SYNC_FSYNC in self.levels
        if armed("in_commit"):
            first = self._commit(commits[:1])
            hit("in_commit")
            return first + self._commit(commits[1:])
        return self._commit(commits)

    def _commit(self, commits: Sequence[Commit]) -> list[Outcome]:
        calls: list[Call] = []
        for start in range(0, len(commits), _COMMITS_PER_CALL):
            some = commits[start : start + _COMMITS_PER_CALL]
            told = [
                (str(one.epoch), str(one.seq), repr(one.last_used_unix_s), one.snapshot)
                for one in some
            ]
            arguments = [part for one in told for part in one]
            calls.append(("commit", [self._key(one.key) for one in some], arguments))
        return [
            Outcome(_VERDICTS[verdict], int(epoch), int(seq))
            for answer in self._link.call_all(calls)
            for verdict, epoch, seq in answer
        ]

    @override
    def release(self, held: Sequence[tuple[SessionKey, int, float]]) -> None:
        calls: list[Call] = []
        for start in range(0, len(held), _RELEASES_PER_CALL):
            some = held[start : start + _RELEASES_PER_CALL]
            told = [(_name(key), str(epoch), repr(used_s)) for key, epoch, used_s in some]
            arguments = [self._prefix, *(part for one in told for part in one)]
            calls.append(("release", [self._key(key) for key, _, _ in some], arguments))
        self._link.call_all(calls)

    @override
    def remove(self, key: SessionKey, epoch: int, reason: str) -> Verdict:
        check_reason(reason)
        arguments = (self._prefix, *key, str(epoch), reason)
        return _VERDICTS[self._link.call("remove", [self._key(key)], arguments)]

    @override
    def read(self, key: SessionKey) -> Record:
        answer = self._link.call("read", [self._key(key)], (self._prefix, *key))
        _, is_held, facts, head = _unless_gone(key, answer)
        return _record(key, facts, is_held=bool(is_held), head=head)

    @override
    def list(self, tenant: str, after: str, limit: int, model: str = "") -> list[Record]:
        records: list[Record] = []
        ids = [f"{self._prefix}ids:{tenant}"]
        while len(records) < limit:
            page = (self._prefix, tenant, after, _LISTED_PER_CALL, model)
            last, found = self._link.call("list", ids, page)
            for session_id, is_held, facts, head in found:
                key = SessionKey(tenant, session_id.decode())
                records.append(_record(key, facts, is_held=bool(is_held), head=head))
            after = last.decode()
            if not after:
                break
        return records[:limit]

    @override
    def renew(self) -> bool:
        # Reads the server's time too.
        arguments = (self._boot, max(int(self.lease_ttl_s * 1000), 1))
        kept = bool(self._link.call("renew", [self._lease], arguments))
        self._time.set(self._link.unix_s())
        return kept

    @override
    def now_unix_s(self) -> float:
        # The server's time at the last renewal, plus the time since then.
        return self._time()

    @override
    def sweep(self, now_unix_s: float, limit: int) -> int:
        # The server itself forgets reasons.
        ended = 0
        while True:
            arguments = (self._prefix, repr(now_unix_s), limit - ended)
            more, looked_at = self._link.call("sweep", [f"{self._prefix}expiry"], arguments)
            # Sessions that are still held move to a later place, so each call gets further.
            full = looked_at == limit - ended
            ended += int(more)
            if not full or ended == limit:
                return ended

    @override
    def statistics(self) -> StoreStatistics:
        # The bytes are those of the whole Redis server.
        return StoreStatistics(
            self._link.call("count", [f"{self._prefix}expiry"], ()), self._link.used_bytes()
        )

    @override
    def usage(self, tenant: str) -> StoreStatistics:
        # Redis knows only the bytes of the whole server.
        return StoreStatistics(self._link.call("count", [f"{self._prefix}ids:{tenant}"], ()), -1)

    @override
    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            self._link.call("resign", [self._lease], (self._boot,))
        finally:
            self._link.close()

    @property
    def _lease(self) -> str:
        return f"{self._prefix}lease:{self._owner}"

    def _key(self, key: SessionKey) -> str:
        return f"{self._prefix}session:{_name(key)}"


def _name(key: SessionKey) -> str:
    assert "/" not in key.tenant, "a tenant has no slash"
    return f"{key.tenant}/{key.id}"


def _opening(new: NewSession, first: First) -> tuple[str | bytes, ...]:
    return (
        *(new.model, str(int(new.durability)), repr(new.idle_ttl_s)),
        *(str(new.seed), repr(new.created_at_unix_s), str(first.seq), first.snapshot),
    )


def _unless_gone(key: SessionKey, answer: Any) -> Any:
    """The record in an answer, if there is a session."""
    if answer[0] == b"NONE":
        raise gone(key, None)
    if answer[0] == b"ENDED":
        raise gone(key, answer[1].decode())
    return answer


def _record(key: SessionKey, facts: Any, *, is_held: bool, head: bytes) -> Record:
    """A record from the values of FACTS in carousel.lua."""
    epoch, seq, used, model, durability, ttl, seed, created_at = facts
    session = NewSession(
        model.decode(), Durability(int(durability)), float(ttl), int(seed), float(created_at)
    )
    return Record(*(key, session, int(epoch), int(seq), b"", float(used)), held=is_held, head=head)
