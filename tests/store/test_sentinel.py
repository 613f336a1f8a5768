"""A store behind Sentinels: they name the primary, also after a failover."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from support.redis import RedisServer, free_port
from support.redis_cluster import wait_until

from carousel_server.core.errors import CarouselError
from carousel_server.core.store import Outcome, Verdict
from carousel_server.store import StoreError, open_store
from carousel_server.store.redis import RedisStore

from .media import ALICE, KEY, NEW, commit

NAME = "carousel-primary"


class Watched:
    """A primary, its replica, and one Sentinel that watches them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.servers: list[RedisServer] = []
        for name in ("first", "second"):
            (folder / name).mkdir()
            self.servers.append(RedisServer(folder / name))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Watched:
        first, second = self.servers
        for server in self.servers:
            server.start()
        with second.client() as client:
            client.execute_command("REPLICAOF", "127.0.0.1", first.port)
            wait_until(lambda: client.info("replication")["master_link_status"] == "up", "no link")
        settings = self.folder / "sentinel.conf"
        settings.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {self.folder}\n"
            f"sentinel monitor {NAME} 127.0.0.1 {first.port} 1\n"
            f"sentinel down-after-milliseconds {NAME} 1000\n"
            f"sentinel failover-timeout {NAME} 5000\n"
        )
        command = ["redis-server", str(settings), "--sentinel"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        wait_until(self._knows_both, "the Sentinel does not find the replica")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        for server in self.servers:
            server.kill()

    @property
    def url(self) -> str:
        return f"redis+sentinel://127.0.0.1:1,127.0.0.1:{self.port}/{NAME}"

    def _knows_both(self) -> bool:
        with redis.Redis(port=self.port) as client:
            try:
                return len(client.sentinel_slaves(NAME)) == 1
            except redis.RedisError:
                return False


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    with Watched(tmp_path) as made:
        yield made


def test_the_store_follows_the_primary(watched: Watched) -> None:
    store = open_store(watched.url, replica=ALICE, lease_ttl_s=8.0)
    store.acquire(KEY, epoch_floor=0, new=NEW)
    assert store.commit([commit(1)], fsync=False) == [Outcome(Verdict.DONE, 1, 1)]
    first, second = watched.servers
    with first.client() as client:
        client.set("last", 1)
        assert client.wait(1, 60_000) == 1
    first.kill()
    outcomes: list[Outcome] = []

    def committed() -> bool:
        try:
            outcomes.extend(store.commit([commit(2)], fsync=False))
        except CarouselError as error:
            if error.reason != "STORE_UNAVAILABLE":
                raise
            return False
        return True

    wait_until(committed, "no new primary")
    assert outcomes == [Outcome(Verdict.DONE, 1, 2)]
    with second.client() as client:
        assert client.info("replication")["role"] == "master"
    assert store.read(KEY).seq == 2
    store.close()


def test_an_unknown_name_is_refused_by_name(watched: Watched) -> None:
    with pytest.raises(StoreError) as error:
        RedisStore(watched.url + "x", ALICE, 1.0)
    cause, fix = str(error.value).splitlines()
    assert "know no such primary" in cause
    assert f"{NAME}x" in cause
    assert "correct the addresses and the name" in fix


def test_a_server_that_is_no_sentinel_is_refused_by_name(watched: Watched) -> None:
    with pytest.raises(StoreError) as error:
        RedisStore(f"redis+sentinel://127.0.0.1:{watched.servers[0].port}/{NAME}", ALICE, 1.0)
    cause, fix = str(error.value).splitlines()
    assert "is no Sentinel" in cause
    assert "name the Sentinels" in fix


def test_a_sentinel_needs_its_own_url(watched: Watched) -> None:
    with pytest.raises(StoreError) as error:
        RedisStore(f"redis://127.0.0.1:{watched.port}/0", ALICE, 1.0)
    assert "is a Redis Sentinel" in str(error.value)
