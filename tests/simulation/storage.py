"""The simulated store: a real MemoryStore behind faults, and the real store thread without its thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from carousel_server.core.errors import CarouselError
from carousel_server.core.replicas import UNANNOUNCED
from carousel_server.core.store import (
    NO_SNAPSHOT,
    Announcement,
    Asked,
    Commit,
    First,
    NewSession,
    Outcome,
    Record,
    Replica,
    SessionKey,
    StoreRequest,
    StoreStatistics,
    Verdict,
)
from carousel_server.core.types import Durability
from carousel_server.store.memory import MemoryMedium, MemoryStore
from carousel_server.store.thread import StoreThread

from .oracle import Oracle
from .world import NATURE, World

T = TypeVar("T")

_LATE_S = 0.4


class Storage:
    """What all replicas share: the medium, and how well it can be reached.

    Attributes:
        away: nobody reaches it.
        unsure_until_s: since when it can be reached again, and no answer is lost.
        losing: chance that a request is done and its answer lost.
        delaying: chance that commits arrive long after whoever sent them has given them up.
        slow_s: how long requests take at most.
    """

    def __init__(self, world: World, oracle: Oracle) -> None:
        self.world = world
        self.oracle = oracle
        self.medium = MemoryMedium()
        self.away = False
        self.unsure_until_s = 0.0
        self.losing = 0.0
        self.delaying = 0.0
        self.slow_s = 0.002
        self._copy: MemoryMedium | None = None

    def keep_copy(self) -> None:
        """Remembers how the medium is now, to be rolled back to."""
        self._copy = self.medium.copy()

    def roll_back(self) -> None:
        """The medium is as it was: a failover to a replica that lagged, a restored disk."""
        if self._copy is not None:
            self.oracle.rolled_back(self.medium, self._copy)
            self.medium.roll_back(self._copy)
            self._copy = None

    def heal(self) -> None:
        """It answers, soon and always."""
        if self.away or self.losing:
            self.unsure_until_s = self.world.now_s
        self.away, self.losing, self.delaying, self.slow_s = False, 0.0, 0.0, 0.002


class FaultyStore:
    """Implements `core.store.Store`: one replica's view of the medium."""

    name = "simulated"

    def __init__(self, storage: Storage, owner: str, lease_ttl_s: float) -> None:
        self._storage = storage
        world = storage.world
        self._store = MemoryStore(
            storage.medium, owner=owner, now=world.wall, lease_ttl_s=lease_ttl_s
        )
        self.levels: frozenset[Durability] = self._store.levels
        self.boot = storage.medium.boots
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

    def commit(self, commits: Sequence[Commit], *, fsync: bool) -> list[Outcome]:
        """See `Store.commit`."""
        world = self._storage.world
        if world.rng.random() < self._storage.delaying:
            world.call(world.rng.random() * _LATE_S, NATURE, self._commit, list(commits), fsync)
            raise _unavailable()
        return self._ask(self._commit, commits, fsync)

    def release(self, held: Sequence[tuple[SessionKey, int, float]]) -> None:
        """See `Store.release`."""
        self._ask(self._release, held)

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

    def _release(self, held: Sequence[tuple[SessionKey, int, float]]) -> None:
        self._store.release(held)
        self._storage.oracle.released(held)

    def _commit(self, commits: Sequence[Commit], fsync: bool) -> list[Outcome]:
        outcomes = self._store.commit(commits, fsync=fsync)
        for commit, outcome in zip(commits, outcomes, strict=True):
            self._storage.oracle.committed(commit, outcome)
        return outcomes

    def _ask(self, verb: Callable[..., T], *args: object) -> T:
        """Asks, unless the store is away; sometimes nobody learns the answer."""
        if self._storage.away:
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
