"""What each kind of store is kept on, as the contract's tests see it."""

from __future__ import annotations

import math
import time
import uuid
from pathlib import Path

from support.redis import RedisServer
from support.redis_cluster import ClusterServers

from carousel_server.core.store import Commit, NewSession, SessionKey, Store
from carousel_server.core.types import Durability
from carousel_server.store import MemoryMedium, MemoryStore, SharedSqliteStore, SqliteStore
from carousel_server.store.redis import RedisStore
from carousel_server.store.redis_keys import tags_of

KEY = SessionKey("tenant", "s1")
NEW = NewSession("m", Durability.ASYNC, 100.0, (1 << 64) - 1, 1234.5)
ALICE, BOB = "alice:1", "bob:2"


class Medium:
    """A medium, on which replicas open stores. `now` is about the wall clock of the stores."""

    shared = True
    """Several replicas can use it at once."""

    def open(self, owner: str = ALICE) -> Store:
        raise NotImplementedError

    def kill(self, store: Store) -> None:
        """The replica dies: its lease stays."""

    def run_out(self, owner: str) -> None:
        """That replica's lease runs out."""
        raise NotImplementedError

    def now(self) -> float:
        return time.time()


class InMemory(Medium):
    def __init__(self, lease_ttl_s: float) -> None:
        self.shared = math.isfinite(lease_ttl_s)
        self.medium = MemoryMedium()
        self.lease_ttl_s = lease_ttl_s
        self.clock_s = 1e9

    def open(self, owner: str = ALICE) -> MemoryStore:
        return MemoryStore(self.medium, owner=owner, now=self.now, lease_ttl_s=self.lease_ttl_s)

    def run_out(self, owner: str) -> None:
        self.medium.leases.pop(owner)

    def now(self) -> float:
        return self.clock_s


class InSqlite(Medium):
    shared = False

    def __init__(self, folder: Path) -> None:
        self.path = folder / "sessions.db"
        self.opened: list[SqliteStore] = []

    def open(self, owner: str = ALICE) -> SqliteStore:
        store = SqliteStore(self.path)
        self.opened.append(store)
        return store

    def kill(self, store: Store) -> None:
        assert isinstance(store, SqliteStore)
        store._db.close()
        store._lock.close()


class InSharedSqlite(Medium):
    def __init__(self, folder: Path) -> None:
        self.path = folder / "sessions.db"
        self.opened: list[SharedSqliteStore] = []

    def open(self, owner: str = ALICE) -> SharedSqliteStore:
        store = SharedSqliteStore(self.path, owner, 30.0)
        self.opened.append(store)
        return store

    def kill(self, store: Store) -> None:
        """As the kernel does it: the files are closed, and nothing is said."""
        assert isinstance(store, SharedSqliteStore)
        store._db.close()
        store._lock.close()
        store._turns.close()

    def run_out(self, owner: str) -> None:
        for store in self.opened:
            if not store._lock.closed:
                store._db.execute("UPDATE replicas SET until_s = 0 WHERE name = ?", (owner,))
                return
        raise AssertionError("no store is open")


class InRedis(Medium):
    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self.prefix = uuid.uuid4().hex
        self.lease_ttl_s = 30.0
        self.opened: list[RedisStore] = []

    def open(self, owner: str = ALICE) -> RedisStore:
        store = RedisStore(self.server.url, owner, self.lease_ttl_s, prefix=self.prefix)
        self.opened.append(store)
        return store

    def run_out(self, owner: str) -> None:
        with self.server.client() as client:
            assert client.hdel(f"{{{self.prefix}}}:replicas", owner) == 1


class InCluster(Medium):
    """A store with several shards in a Redis Cluster."""

    def __init__(self, servers: ClusterServers) -> None:
        self.servers = servers
        self.prefix = uuid.uuid4().hex
        self.opened: list[RedisStore] = []

    def open(self, owner: str = ALICE, lease_ttl_s: float = 30.0) -> RedisStore:
        store = RedisStore(f"{self.servers.url}?shards=6", owner, lease_ttl_s, prefix=self.prefix)
        self.opened.append(store)
        return store

    def run_out(self, owner: str) -> None:
        for tag in tags_of(self.prefix, 6):
            key = f"{{{tag}}}:replicas"
            with self.servers.client_of(key) as client:
                assert client.hdel(key, owner) == 1


def commit(
    seq: int, epoch: int = 1, key: SessionKey = KEY, used: float = 0.0, snapshot: bytes = b""
) -> Commit:
    """A commit; by default its snapshot tells its seq."""
    return Commit(key, epoch, seq, snapshot or b"snapshot %d" % seq, used or time.time())
