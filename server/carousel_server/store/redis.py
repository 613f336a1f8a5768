"""A store in Redis or Valkey, for any number of replicas. The holder of the lease runs the session."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from typing_extensions import override

from carousel_server.core.errors import CarouselError
from carousel_server.core.failpoints import armed, hit
from carousel_server.core.replicas import KEPT_S, MAIL_MOST, MAIL_S, UNANNOUNCED
from carousel_server.core.store import (
    NO_SNAPSHOT,
    UNANSWERED,
    Acquire,
    Announcement,
    Asked,
    AskFor,
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

from . import redis_answers
from .faults import check_reason, floor_error
from .redis_cluster import ClusterLink
from .redis_keys import Keys, Shard, name_of, tags_of
from .redis_layout import shards_of
from .redis_link import Link, RedisLink
from .redis_node import Answers, Arguments, Call
from .redis_scans import Scans
from .redis_target import Kind, read_url
from .steady import SteadyClock

_COMMITS_PER_CALL = 16
"""Sessions in one call. With 64 snapshots of 4 KiB, 16 were within a tenth of the best size, both under
appendfsync always and everysec. One session a call was slowest.
"""

_RELEASES_PER_CALL = 256
_ACQUIRES_TOGETHER = 64
"""Sessions that are acquired in one round trip. They are one call each, so that a commit waits little."""
_VERDICTS = (Verdict.DONE, Verdict.FENCED, Verdict.STALE)

_Group = tuple[Shard, Sequence[int]]
"""Places of sessions of one shard in a list."""


class RedisStore(Store):
    """A store in Redis, by the functions of carousel.lua. Used by one thread.

    A replica has one lease, written in every shard, and each session an epoch. A new replica with the name of
    a former one has its sessions at once, since no two replicas may have one name.

    Args:
        url: of a Redis or Valkey, of a cluster, or of Sentinels. See `opening.FORMS`.
        owner: the replica's name, such as its address.
        lease_ttl_s: how long a lease lasts without `renew`.
        prefix: of all keys. Each deployment in one database needs its own.

    Raises:
        StoreError: see `RedisLink` and `ClusterLink`. The store has another number of shards.
    """

    name = "redis"
    most_acquires = _ACQUIRES_TOGETHER

    def __init__(
        self, url: str, owner: str, lease_ttl_s: float = 10.0, *, prefix: str = "carousel"
    ) -> None:
        assert owner, "a replica needs a name"
        self.lease_ttl_s = lease_ttl_s
        self._owner = owner
        self._boot = secrets.token_hex(8)
        target = read_url(url)
        # Two time-outs fit into a lease, so a lost server is noticed before it expires.
        links = {Kind.SINGLE: RedisLink, Kind.SENTINEL: RedisLink, Kind.CLUSTER: ClusterLink}
        self._link: Link = links[target.kind](target, max(lease_ttl_s / 4, 0.1))
        self._keys = Keys(tags_of(prefix, shards_of(self._link, target, prefix)))
        self._scans = Scans(self._keys, self._link, owner)
        levels = {Durability.ASYNC, Durability.SYNC}
        if self._link.is_fsynced():
            levels.add(Durability.SYNC_FSYNC)
        self.levels = frozenset(levels)
        self._closed = False
        self._time = SteadyClock()
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
        (answer,) = self.acquire_all([Acquire(key, epoch_floor, new, first)])
        if isinstance(answer, CarouselError):
            raise answer
        return answer

    @override
    def acquire_all(self, wanted: Sequence[Acquire]) -> Sequence[Record | CarouselError]:
        refused = [floor_error(one.epoch_floor) for one in wanted]
        allowed = [one for one, error in zip(wanted, refused, strict=True) if error is None]
        answers = iter(self._link.call_each([self._acquiring(one) for one in allowed]))
        own = Holder(self._owner, self._said.address, is_own=True)
        return [
            error or _acquired(one.key, next(answers), own)
            for one, error in zip(wanted, refused, strict=True)
        ]

    def _acquiring(self, wanted: Acquire) -> Call:
        key, shard = wanted.key, self._keys.of(wanted.key)
        opening = () if wanted.new is None else _opening(wanted.new, wanted.first)
        told = (name_of(key), key.id, self._owner, self._boot, str(wanted.epoch_floor), *opening)
        return "acquire", [*shard.all_of(key), shard.replicas], told

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
        groups = self._by_shard([one.key for one in commits], _COMMITS_PER_CALL)
        outcomes: dict[int, Outcome] = {}
        failed = self._commit_groups(commits, groups, outcomes)
        # While a shard moves to another server, only calls with one key are answered.
        alone = [(shard, [place]) for (shard, some), _ in failed if len(some) > 1 for place in some]
        if alone:
            self._commit_groups(commits, alone, outcomes)
        if failed and all(one is UNANSWERED for one in outcomes.values()):
            raise failed[0][1]
        return [outcomes[place] for place in range(len(commits))]

    def _commit_groups(
        self, commits: Sequence[Commit], groups: Sequence[_Group], outcomes: dict[int, Outcome]
    ) -> Sequence[tuple[_Group, CarouselError]]:
        """Commits each group in one call, and fills `outcomes`. Returns the groups that failed."""
        calls: list[Call] = []
        for shard, some in groups:
            told: list[str | bytes] = []
            for one in (commits[place] for place in some):
                told += (str(one.epoch), str(one.seq), repr(one.last_used_unix_s), one.snapshot)
            calls.append(("commit", [shard.session(commits[place].key) for place in some], told))
        failed = []
        for group, answer in zip(groups, self._link.call_each(calls), strict=True):
            if isinstance(answer, CarouselError):
                outcomes.update(dict.fromkeys(group[1], UNANSWERED))
                failed.append((group, answer))
                continue
            for place, (verdict, epoch, seq) in zip(group[1], answer, strict=True):
                outcomes[place] = Outcome(_VERDICTS[verdict], int(epoch), int(seq))
        return failed

    @override
    def release(self, held: Sequence[Holding]) -> None:
        calls: list[Call] = []
        for shard, some in self._by_shard([one.key for one in held], _RELEASES_PER_CALL):
            told: list[str] = []
            for key, epoch, used_s, whole in (held[place] for place in some):
                told += (name_of(key), str(epoch), repr(used_s), str(int(whole)))
            keys = [shard.session(held[place].key) for place in some]
            calls.append(("release", [*keys, shard.expiry], told))
        self._link.call_all(calls)

    @override
    def remove(self, key: SessionKey, epoch: int, reason: str) -> Verdict:
        check_reason(reason)
        arguments = (name_of(key), key.id, str(epoch), reason)
        return _VERDICTS[self._call("remove", self._keys.of(key).all_of(key), arguments)]

    @override
    def read(self, key: SessionKey) -> Record:
        shard = self._keys.of(key)
        keys = [shard.session(key), shard.ended(key), shard.replicas]
        return redis_answers.read(key, self._call("read", keys, ()), self._owner)

    @override
    def list(self, tenant: str, after: str, limit: int, model: str = "") -> list[Record]:
        return self._scans.listed(tenant, after, limit, model)

    @override
    def renew(self, said: Announcement = UNANNOUNCED) -> bool:
        # Reads the server's time too. It is that of the first shard, for all replicas.
        self._said, ttl_ms = said, max(int(self.lease_ttl_s * 1000), 1)
        arguments = (self._owner, self._boot, ttl_ms, *redis_answers.told(said))
        answers = self._in_all("renew", arguments)
        self._time.set(float(answers[0][1]))
        return all(kept for kept, _ in answers)

    @override
    def replicas(self) -> Sequence[Replica]:
        # Each shard has them all.
        for shard in self._keys.shards[:-1]:
            try:
                return self._replicas(shard)
            except CarouselError:
                continue
        return self._replicas(self._keys.shards[-1])

    def _replicas(self, shard: Shard) -> Sequence[Replica]:
        answer = self._call("replicas", [shard.replicas], ())
        return sorted(map(redis_answers.replica, answer), key=lambda one: one.name)

    @override
    def ask_for(self, key: SessionKey, holder: str, *, take_over: bool, by: str) -> None:
        self.ask_for_all([AskFor(key, holder, take_over)], by)

    @override
    def ask_for_all(self, asked: Sequence[AskFor], by: str) -> None:
        calls: list[Call] = []
        for key, holder, take_over in ((one.key, one.holder, one.take_over) for one in asked):
            mail = redis_answers.mail(Asked(key, take_over, by))
            told = (mail, MAIL_MOST, int(MAIL_S * 1000))
            calls.append(("ask", [self._keys.mailbox(holder)], told))
        self._link.call_all(calls)

    @override
    def asked(self, limit: int) -> Sequence[Asked]:
        mail = self._call("take", [self._keys.mailbox(self._owner)], (limit,))
        return [redis_answers.asked(one) for one in mail]

    @override
    def keep(self, keys: Sequence[SessionKey]) -> None:
        arguments = (f"{self._owner}/{self._boot}", int(KEPT_S * 1000))
        self._link.call_all(
            [
                ("keep", [shard.session(keys[place]) for place in some], arguments)
                for shard, some in self._by_shard(keys, _RELEASES_PER_CALL)
            ]
        )

    @override
    def now_unix_s(self) -> float:
        # The server's time at the last renewal, plus the time since then.
        return self._time()

    @override
    def sweep(self, now_unix_s: float, limit: int) -> int:
        return self._scans.sweep(now_unix_s, limit)

    @override
    def statistics(self) -> StoreStatistics:
        # The bytes are those of the whole Redis server.
        counts = self._link.call_all([("count", [shard.expiry], ()) for shard in self._keys.shards])
        return StoreStatistics(sum(counts), self._link.used_bytes())

    @override
    def usage(self, tenant: str) -> StoreStatistics:
        # Redis knows only the bytes of the whole server.
        counts = self._link.call_all(
            [("count", [shard.ids(tenant)], ()) for shard in self._keys.shards]
        )
        return StoreStatistics(sum(counts), -1)

    @override
    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            self._in_all("resign", (self._owner, self._boot))
        finally:
            self._link.close()

    def _call(self, function: str, keys: Sequence[str], arguments: Arguments) -> Any:
        return self._link.call_all([(function, keys, arguments)])[0]

    def _in_all(self, function: str, arguments: Arguments) -> Answers:
        """Calls a function on the leases of every shard."""
        return self._link.call_all(
            [(function, [shard.replicas], arguments) for shard in self._keys.shards]
        )

    def _by_shard(self, keys: Sequence[SessionKey], most: int) -> Sequence[_Group]:
        """The places of `keys` in groups of one shard each, at most `most` in a group."""
        places: dict[Shard, list[int]] = {}
        for place, key in enumerate(keys):
            places.setdefault(self._keys.of(key), []).append(place)
        return [
            (shard, some[start : start + most])
            for shard, some in places.items()
            for start in range(0, len(some), most)
        ]


def _acquired(key: SessionKey, answer: Any, own: Holder) -> Record | CarouselError:
    """What an answer of `acquire` says, or why there is none."""
    if isinstance(answer, CarouselError):
        return answer
    try:
        _, created, facts, snapshot, whole = redis_answers.acquired(key, answer)
    except CarouselError as refused:
        return refused
    record = redis_answers.record(key, facts, holder=own)
    return replace(record, snapshot=snapshot, created=bool(created), whole=bool(whole))


def _opening(new: NewSession, first: First) -> tuple[str | bytes, ...]:
    return (
        *(new.model, str(int(new.durability)), repr(new.idle_ttl_s)),
        *(str(new.seed), repr(new.created_at_unix_s), str(first.seq), first.snapshot),
    )
