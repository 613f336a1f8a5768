"""The simulated store: a real MemoryStore behind faults, and the real store thread without its thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from carousel_server.core.errors import CarouselError
from carousel_server.core.replicas import UNANNOUNCED
from carousel_server.core.store import (
    NO_SNAPSHOT,
    Acquire,
    Announcement,
    Asked,
    AskFor,
    Commit,
    First,
    Holding,
    NewSession,
    Outcome,
    Record,
    Replica,
    SessionKey,
    Store,
    StoreRequest,
    StoreStatistics,
    Verdict,
)
from carousel_server.core.types import Durability
from carousel_server.store.memory import MemoryMedium
from carousel_server.store.thread import StoreThread

from .oracle import Oracle
from .shards import ShardedStore, shard_of
from .world import NATURE, World

T = TypeVar("T")

_LATE_S = 0.4
_LATE_CHANCE = 0.5


class Storage:
    """What all replicas share: the shards' media, and how well they can be reached.

    Attributes:
        media: of the shards.
        away: nobody reaches it.
        away_shards: those that nobody reaches.
        cut_off: names of replicas that do not reach it.
        unsure_until_s: since when it can be reached again, and no answer is lost.
        losing: chance that a request is done and its answer lost.
        delaying: chance that commits arrive long after whoever sent them has given them up.
        late_shard: one where many commits do.
        slow_s: how long requests take at most.
    """

    def __init__(self, world: World, oracle: Oracle, media: Sequence[MemoryMedium]) -> None:
        self.world = world
        self.oracle = oracle
        self.media = media
        self.away = False
        self.away_shards: set[int] = set()
        self.cut_off: set[str] = set()
        self.unsure_until_s = 0.0
        self.losing = 0.0
        self.delaying = 0.0
        self.late_shard: int | None = None
        self.slow_s = 0.002
        self._copies: dict[int, MemoryMedium] = {}

    def stored(self, key: SessionKey) -> Any:
        """What the store has of a session."""
        return self.media[self.shard_of(key)].sessions.get(key)

    def shard_of(self, key: SessionKey) -> int:
        """Where a session is."""
        return shard_of(key.id, len(self.media))

    def lease_until(self, name: str, boot: int) -> float:
        """Until when, in Unix seconds, all shards hold the lease of a replica's life; 0 if one does not."""
        leases = [medium.leases.get(name) for medium in self.media]
        return min(
            lease.until_unix_s if lease is not None and lease.boot == boot else 0.0
            for lease in leases
        )

    def keep_copy(self, shard: int = 0) -> None:
        """Remembers how a shard is now, to be rolled back to."""
        self._copies[shard] = self.media[shard].copy()

    def roll_back(self, shard: int = 0) -> None:
        """A shard is as it was: a failover to a replica that lagged, a restored disk."""
        copy = self._copies.pop(shard, None)
        if copy is not None:
            self.oracle.rolled_back(self.media[shard], copy)
            self.media[shard].roll_back(copy)

    def lose(self, shard: int) -> None:
        """Nobody reaches a shard."""
        self.away_shards.add(shard)

    def find(self, shard: int) -> None:
        """A shard can be reached again."""
        if shard in self.away_shards:
            self.away_shards.discard(shard)
            self.unsure_until_s = self.world.now_s

    def cut(self, replica: str) -> None:
        """A replica does not reach it."""
        self.cut_off.add(replica)

    def join(self, replica: str) -> None:
        """A replica reaches it again."""
        if replica in self.cut_off:
            self.cut_off.discard(replica)
            self.unsure_until_s = self.world.now_s

    @property
    def is_unsure(self) -> bool:
        """True while some request may fail."""
        return bool(self.away or self.losing or self.away_shards or self.cut_off)

    def heal(self) -> None:
        """It answers, soon and always."""
        if self.is_unsure:
            self.unsure_until_s = self.world.now_s
        self.away, self.losing, self.delaying, self.slow_s = False, 0.0, 0.0, 0.002
        self.away_shards.clear()
        self.cut_off.clear()
        self.late_shard = None


class FaultyStore:
    """Implements `core.store.Store`: one replica's view of the medium."""

    name = "simulated"
    most_acquires = 4

    def __init__(self, storage: Storage, owner: str, lease_ttl_s: float) -> None:
        self._storage = storage
        world = storage.world
        self._owner = owner
        self._store = ShardedStore(
            storage.media, owner, world.wall, lease_ttl_s, self._reach, storage.oracle
        )
        self.levels: frozenset[Durability] = self._store.levels
        self.boot = storage.media[0].boots
        self.lease_ttl_s = lease_ttl_s

    def acquire(
        self,
        key: SessionKey,
        *,
        epoch_floor: int,
        new: NewSession | None,
        first: First = NO_SNAPSHOT,
    ) -> Record:
        """See `Store.acquire`."""
        return self._ask(self._acquire, key, epoch_floor, new, first)

    def acquire_all(self, wanted: Sequence[Acquire]) -> Sequence[Record | CarouselError]:
        """See `Store.acquire_all`. Each answer may be lost alone."""
        return Store.acquire_all(self, wanted)

    def commit(self, commits: Sequence[Commit], *, fsync: bool) -> list[Outcome]:
        """See `Store.commit`."""
        world, late = self._storage.world, self._storage.late_shard
        if late is not None and world.fleets.random() < _LATE_CHANCE:
            some = [one for one in commits if self._storage.shard_of(one.key) == late]
            if some:
                world.call(world.fleets.random() * _LATE_S, NATURE, self._commit_late, some, fsync)
                raise _unavailable()
        if world.rng.random() < self._storage.delaying:
            delay_s = world.rng.random() * _LATE_S
            world.call(delay_s, NATURE, self._commit_late, list(commits), fsync)
            raise _unavailable()
        return self._ask(lambda: self._store.commit(commits, fsync=fsync))

    def release(self, held: Sequence[Holding]) -> None:
        """See `Store.release`."""
        self._ask(self._store.release, held)

    def remove(self, key: SessionKey, epoch: int, reason: str) -> Verdict:
        """See `Store.remove`."""
        return self._ask(self._store.remove, key, epoch, reason)

    def read(self, key: SessionKey) -> Record:
        """See `Store.read`."""
        return self._ask(self._store.read, key)

    def list(self, tenant: str, after: str, limit: int, model: str = "") -> list[Record]:
        """See `Store.list`."""
        return self._ask(self._store.list, tenant, after, limit, model)

    def renew(self, said: Announcement = UNANNOUNCED) -> bool:
        """See `Store.renew`."""
        return self._ask(self._store.renew, said)

    def replicas(self) -> Sequence[Replica]:
        """See `Store.replicas`."""
        return self._ask(self._store.replicas)

    def ask_for(self, key: SessionKey, holder: str, *, take_over: bool, by: str) -> None:
        """See `Store.ask_for`."""
        self._ask(lambda: self._store.ask_for(key, holder, take_over=take_over, by=by))

    def ask_for_all(self, asked: Sequence[AskFor], by: str) -> None:
        """See `Store.ask_for_all`."""
        Store.ask_for_all(self, asked, by)

    def asked(self, limit: int) -> Sequence[Asked]:
        """See `Store.asked`."""
        return self._ask(self._store.asked, limit)

    def keep(self, keys: Sequence[SessionKey]) -> None:
        """See `Store.keep`."""
        self._ask(self._store.keep, keys)

    def now_unix_s(self) -> float:
        """See `Store.now_unix_s`."""
        return self._store.now_unix_s()

    def sweep(self, now_unix_s: float, limit: int) -> int:
        """See `Store.sweep`."""
        return self._ask(self._store.sweep, now_unix_s, limit)

    def statistics(self) -> StoreStatistics:
        """See `Store.statistics`."""
        return self._store.statistics()

    def usage(self, tenant: str) -> StoreStatistics:
        """See `Store.usage`."""
        return self._store.usage(tenant)

    def close(self) -> None:
        """See `Store.close`."""
        self._ask(self._store.close)

    def _acquire(
        self, key: SessionKey, epoch_floor: int, new: NewSession | None, first: First
    ) -> Record:
        record = self._store.acquire(key, epoch_floor=epoch_floor, new=new, first=first)
        self._storage.oracle.acquired(record)
        return record

    def _commit_late(self, commits: Sequence[Commit], fsync: bool) -> None:
        """Nobody waits any more."""
        with suppress(CarouselError):
            self._store.commit(commits, fsync=fsync)

    def _reach(self, shard: int) -> None:
        if shard in self._storage.away_shards:
            raise _unavailable()

    def _ask(self, verb: Callable[..., T], *args: object) -> T:
        """Asks, unless the store is away; sometimes nobody learns the answer."""
        if self._storage.away or self._owner in self._storage.cut_off:
            raise _unavailable()
        answer = verb(*args)
        if self._storage.losing and self._storage.world.rng.random() < self._storage.losing:
            raise _unavailable()
        return answer


class TurnedStore(StoreThread):
    """The store's thread, turned by the world's events: `woken` hears that there is something to do."""

    def __init__(self, store: FaultyStore, world: World, woken: Callable[[], None]) -> None:
        self._woken = woken
        super().__init__(store, clock=world.clock)

    def submit(self, request: StoreRequest) -> None:
        """See `StorePort.submit`."""
        super().submit(request)
        self._woken()

    def _nudge(self) -> None:
        super()._nudge()
        self._woken()

    @property
    def idle_s(self) -> float:
        """How long it would sleep if nobody asked anything."""
        return self._idle_s()


def _unavailable() -> CarouselError:
    return CarouselError("STORE_UNAVAILABLE", "the simulated store is away", retry_after_s=0.05)
