"""A store over several shards, as RedisStore is over the primaries of a cluster; each has its own faults.

Each shard is a real MemoryStore over a medium of its own. A session is in one of them, by its name. A replica
has a lease in each. What is asked of several shards at a time is done in those that answer, and fails if one
does not.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Protocol

from carousel_server.core.errors import CarouselError
from carousel_server.core.store import (
    NO_SNAPSHOT,
    UNANSWERED,
    Announcement,
    Asked,
    Commit,
    First,
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
from carousel_server.store.memory import MemoryMedium, MemoryStore

Reach = Callable[[int], None]
"""Raises STORE_UNAVAILABLE if a shard does not answer now."""


class Seen(Protocol):
    """Who hears what a shard has done, whether or not the caller does."""

    def committed(self, commits: Sequence[Commit], outcomes: Sequence[Outcome]) -> None:
        """It has answered commits."""

    def released(self, held: Sequence[Holding]) -> None:
        """Sessions were given back."""


def shard_of(name: str, shards: int) -> int:
    """The shard of a session or a mailbox."""
    return zlib.crc32(name.encode()) % shards


class ShardedStore(Store):
    """Implements `core.store.Store` over shards.

    Args:
        media: of the shards.
        owner: the replica's name.
        now: Unix seconds.
        lease_ttl_s: of the leases.
        reach: is asked before each use of a shard.
        seen: hears what a shard has done.
    """

    name = "simulated"

    def __init__(
        self,
        media: Sequence[MemoryMedium],
        owner: str,
        now: Callable[[], float],
        lease_ttl_s: float,
        reach: Reach,
        seen: Seen,
    ) -> None:
        self._stores = [
            MemoryStore(medium, owner=owner, now=now, lease_ttl_s=lease_ttl_s) for medium in media
        ]
        self.levels = self._stores[0].levels
        self.lease_ttl_s = lease_ttl_s
        self._owner = owner
        self._reach = reach
        self._seen = seen

    def acquire(
        self,
        key: SessionKey,
        *,
        epoch_floor: int,
        new: NewSession | None,
        first: First = NO_SNAPSHOT,
    ) -> Record:
        """See `Store.acquire`."""
        return self._of(key).acquire(key, epoch_floor=epoch_floor, new=new, first=first)

    def commit(self, commits: Sequence[Commit], *, fsync: bool) -> list[Outcome]:
        """See `Store.commit`. A shard that does not answer leaves its commits UNANSWERED, if others do."""
        outcomes: dict[int, Outcome] = {}

        def use(store: MemoryStore, places: Sequence[int]) -> None:
            some = [commits[place] for place in places]
            answers = store.commit(some, fsync=fsync)
            self._seen.committed(some, answers)
            outcomes.update(zip(places, answers, strict=True))

        try:
            self._by_shard([commit.key for commit in commits], use)
        except CarouselError:
            if not outcomes:
                raise
        return [outcomes.get(place, UNANSWERED) for place in range(len(commits))]

    def release(self, held: Sequence[Holding]) -> None:
        """See `Store.release`."""

        def use(store: MemoryStore, places: Sequence[int]) -> None:
            some = [held[place] for place in places]
            store.release(some)
            self._seen.released(some)

        self._by_shard([one.key for one in held], use)

    def remove(self, key: SessionKey, epoch: int, reason: str) -> Verdict:
        """See `Store.remove`."""
        return self._of(key).remove(key, epoch, reason)

    def read(self, key: SessionKey) -> Record:
        """See `Store.read`."""
        return self._of(key).read(key)

    def list(self, tenant: str, after: str, limit: int, model: str = "") -> list[Record]:
        """See `Store.list`."""
        found = [one for i in self._all() for one in self._at(i).list(tenant, after, limit, model)]
        return sorted(found, key=attrgetter("key"))[:limit]

    def renew(self, said: Announcement) -> bool:
        """See `Replicas.renew`. Each shard that answers has it, also if another one does not."""
        kept: list[bool] = []
        self._in_each(self._all(), lambda i: kept.append(self._at(i).renew(said)))
        return all(kept)

    def replicas(self) -> Sequence[Replica]:
        """See `Replicas.replicas`."""
        return self._at(0).replicas()

    def ask_for(self, key: SessionKey, holder: str, *, take_over: bool, by: str) -> None:
        """See `Replicas.ask_for`."""
        self._mail(holder).ask_for(key, holder, take_over=take_over, by=by)

    def asked(self, limit: int) -> Sequence[Asked]:
        """See `Replicas.asked`."""
        return self._mail(self._owner).asked(limit)

    def keep(self, keys: Sequence[SessionKey]) -> None:
        """See `Replicas.keep`."""
        self._by_shard(keys, lambda store, places: store.keep([keys[place] for place in places]))

    def now_unix_s(self) -> float:
        """See `Store.now_unix_s`."""
        return self._stores[0].now_unix_s()

    def sweep(self, now_unix_s: float, limit: int) -> int:
        """See `Store.sweep`."""
        return sum(self._at(i).sweep(now_unix_s, limit) for i in self._all())

    def statistics(self) -> StoreStatistics:
        """See `Store.statistics`."""
        found = [store.statistics() for store in self._stores]
        return StoreStatistics(sum(one.sessions for one in found), sum(one.bytes for one in found))

    def usage(self, tenant: str) -> StoreStatistics:
        """See `Store.usage`."""
        found = [store.usage(tenant) for store in self._stores]
        return StoreStatistics(sum(one.sessions for one in found), sum(one.bytes for one in found))

    def close(self) -> None:
        """See `Store.close`."""
        self._in_each(self._all(), lambda i: self._at(i).close())

    # -- shards

    def _all(self) -> range:
        return range(len(self._stores))

    def _at(self, shard: int) -> MemoryStore:
        self._reach(shard)
        return self._stores[shard]

    def _of(self, key: SessionKey) -> MemoryStore:
        return self._at(shard_of(key.id, len(self._stores)))

    def _mail(self, replica: str) -> MemoryStore:
        return self._at(shard_of(replica, len(self._stores)))

    def _by_shard(
        self, keys: Sequence[SessionKey], use: Callable[[MemoryStore, Sequence[int]], object]
    ) -> None:
        """Uses each shard for the places of its keys."""
        places: dict[int, list[int]] = {}
        for place, key in enumerate(keys):
            places.setdefault(shard_of(key.id, len(self._stores)), []).append(place)
        self._in_each(places, lambda shard: use(self._at(shard), places[shard]))

    @staticmethod
    def _in_each(shards: Iterable[int], use: Callable[[int], object]) -> None:
        """Does it in every shard that answers; then raises what one of them has raised."""
        failed: CarouselError | None = None
        for shard in shards:
            try:
                use(shard)
            except CarouselError as error:
                failed = error
        if failed is not None:
            raise failed
