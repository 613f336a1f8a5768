"""Every kind of store, each on a medium of its own."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.redis import RedisServer
from support.redis_cluster import ClusterServers

from carousel_server.core.store import Store
from carousel_server.store import StoreThread

from .media import InCluster, InMemory, InRedis, InSharedSqlite, InSqlite, Medium
from .recorded import Clock, Recorded, Told


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server for tests that leave it running."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def in_redis(redis_server: RedisServer) -> Iterator[InRedis]:
    medium = InRedis(redis_server)
    yield medium
    for store in medium.opened:
        store._link.close()


@pytest.fixture(scope="session")
def cluster_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterServers]:
    """A cluster of three primaries for tests that leave it as it is."""
    folder = tmp_path_factory.mktemp("cluster")
    with ClusterServers(folder, replicas=0) as servers:
        yield servers


@pytest.fixture
def in_cluster(cluster_servers: ClusterServers) -> Iterator[InCluster]:
    medium = InCluster(cluster_servers)
    yield medium
    for store in medium.opened:
        store._link.close()


@pytest.fixture
def in_sqlite(tmp_path: Path) -> Iterator[InSqlite]:
    medium = InSqlite(tmp_path)
    yield medium
    for store in medium.opened:
        store.close()


@pytest.fixture
def in_shared_sqlite(tmp_path: Path) -> Iterator[InSharedSqlite]:
    medium = InSharedSqlite(tmp_path)
    yield medium
    for store in medium.opened:
        store.close()


@pytest.fixture(
    params=["memory", "memory-with-leases", "sqlite", "shared_sqlite", "redis", "cluster"]
)
def medium(request: pytest.FixtureRequest) -> Medium:
    if request.param == "memory":
        return InMemory(math.inf)
    if request.param == "memory-with-leases":
        return InMemory(30.0)
    made = request.getfixturevalue(f"in_{request.param}")
    assert isinstance(made, Medium)
    return made


@pytest.fixture
def store(medium: Medium) -> Store:
    """Of the replica alice."""
    return medium.open()


@pytest.fixture(params=["memory-with-leases", "shared_sqlite", "redis", "cluster"])
def shared(request: pytest.FixtureRequest) -> Medium:
    """A medium that several replicas can use at once."""
    if request.param != "memory-with-leases":
        made = request.getfixturevalue(f"in_{request.param}")
        assert isinstance(made, Medium)
        return made
    return InMemory(30.0)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def recorded(clock: Clock) -> Recorded:
    return Recorded(clock)


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def thread(recorded: Recorded, clock: Clock, told: Told) -> StoreThread:
    """Not started: the test calls run_pending."""
    thread = StoreThread(recorded, clock=clock, metrics=told, queue_requests=100)
    thread.run_pending()
    recorded.calls.clear()
    return thread
