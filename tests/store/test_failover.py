"""Redis fails over: the address leads to another server, and the old one stays with its connections."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from support.redis import RedisServer, free_port

from carousel_server.core.errors import CarouselError
from carousel_server.core.store import Outcome, Verdict
from carousel_server.store import StoreError
from carousel_server.store.redis import RedisStore
from tests.chaos.proxy import Proxy

from .media import ALICE, KEY, NEW, commit

WAIT_S = 60.0
_SLOW_LOAD_US = 30_000
"""For each key of the new primary, so that the old one is loading for as long as a test takes."""


class Pair:
    """A primary, its replica, and an address that leads to one of them."""

    def __init__(self, first: RedisServer, second: RedisServer, way: Proxy) -> None:
        self.first, self.second, self.way = first, second, way
        second.client().execute_command("REPLICAOF", "127.0.0.1", first.port)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.way.port}/0"

    def promote(self, *, aim: bool = True) -> None:
        """The replica has all and becomes the primary; new connections go to it."""
        with self.first.client() as client:
            client.set("last", 1)
            assert client.wait(1, int(WAIT_S * 1000)) == 1
        self.second.client().execute_command("REPLICAOF", "NO", "ONE")
        if aim:
            self.way.aim(self.second.port)

    def demote(self, says: str) -> None:
        """The former primary stays, with its connections, and answers with `says`."""
        with self.first.client() as client:
            if says == "MASTERDOWN":
                client.config_set("replica-serve-stale-data", "no")
            if says == "LOADING":
                with self.second.client() as other:
                    for number in range(1000):
                        other.set(f"filler:{number}", os.urandom(2000))
                client.config_set("key-load-delay", _SLOW_LOAD_US)
                client.config_set("loading-process-events-interval-bytes", 1024)
            client.execute_command("REPLICAOF", "127.0.0.1", self.second.port)
            if says == "MASTERDOWN":
                client.execute_command("REPLICAOF", "127.0.0.1", 1)
            until = time.monotonic() + WAIT_S
            while says == "LOADING" and not client.info("persistence")["loading"]:
                assert time.monotonic() < until, "it does not load"
                time.sleep(0.01)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    folders = tmp_path / "first", tmp_path / "second"
    for folder in folders:
        folder.mkdir()
    first, second = map(RedisServer, folders)
    with first, second, Proxy(first.port) as way:
        yield Pair(first, second, way)


@pytest.mark.parametrize("says", ["READONLY", "MASTERDOWN", "LOADING"])
def test_the_next_call_finds_the_new_primary(pair: Pair, says: str) -> None:
    store = RedisStore(pair.url, ALICE, 30.0)
    store.acquire(KEY, epoch_floor=0, new=NEW)
    assert store.commit([commit(1)], fsync=False) == [Outcome(Verdict.DONE, 1, 1)]
    pair.promote()
    pair.demote(says)
    assert store.commit([commit(2)], fsync=False) == [Outcome(Verdict.DONE, 1, 2)]
    assert store.renew()
    assert store.read(KEY).seq == 2
    store.close()


@pytest.mark.parametrize("says", ["READONLY", "MASTERDOWN", "LOADING"])
def test_until_there_is_one_the_fault_is_named(pair: Pair, says: str) -> None:
    store = RedisStore(pair.url, ALICE, 30.0)
    store.acquire(KEY, epoch_floor=0, new=NEW)
    pair.promote(aim=False)
    pair.demote(says)
    with pytest.raises(CarouselError, match="READONLY") as error:  # this comes before all else
        store.commit([commit(1)], fsync=False)
    if says != "READONLY":
        with pytest.raises(CarouselError, match=says):
            store.read(KEY)
    assert error.value.reason == "STORE_UNAVAILABLE"
    assert error.value.retry_after_s
    pair.way.aim(pair.second.port)
    assert store.commit([commit(1)], fsync=False) == [Outcome(Verdict.DONE, 1, 1)]
    store.close()


@pytest.mark.parametrize("code", ["UNBLOCKED", "TRYAGAIN", "CLUSTERDOWN", "MOVED"])
def test_what_else_says_so_drops_the_connection_too(pair: Pair, code: str) -> None:
    """A server of a cluster may move a slot while a connection is open."""
    store = RedisStore(pair.url, ALICE, 30.0)
    send = store._link._send
    answers: list[Exception] = [redis.ResponseError(f"{code} 1 127.0.0.1:1")]
    parsed = redis.connection.DefaultParser.parse_error(f"{code} 1 127.0.0.1:1")
    answers.append(parsed)

    def refuse(calls: object) -> list[object]:
        return [answers.pop()] if answers else send(calls)  # type: ignore[arg-type]

    before = store._link._client.client_id()
    store._link._send = refuse  # type: ignore[assignment,method-assign]
    with pytest.raises(CarouselError, match=code):
        store.renew()
    assert store.renew()
    assert store._link._client.client_id() != before, "another connection"
    store.close()


# -- at the start


def _refused(url: str) -> str:
    with pytest.raises(StoreError) as error:
        RedisStore(url, ALICE, 30.0)
    cause, fix = str(error.value).splitlines()
    assert cause
    assert fix
    return str(error.value)


def test_a_replica_is_refused_by_name(pair: Pair) -> None:
    text = _refused(pair.second.url)
    assert f"is a replica of 127.0.0.1:{pair.first.port}" in text
    assert "name the primary" in text


def test_a_replica_that_has_lost_its_primary_is_refused_by_name_too(pair: Pair) -> None:
    with pair.second.client() as client:
        client.config_set("replica-serve-stale-data", "no")
        client.execute_command("REPLICAOF", "127.0.0.1", 1)
    assert "is a replica of 127.0.0.1:1" in _refused(pair.second.url)


def test_a_node_of_a_cluster_is_refused_by_name(tmp_path: Path) -> None:
    # Without a port of its own for the bus, Redis takes the port + 10,000, which may be none.
    with RedisServer(
        tmp_path, "--cluster-enabled", "yes", "--cluster-port", str(free_port())
    ) as server:
        text = _refused(server.url)
    assert "is a node of a Redis Cluster" in text
    assert "redis+cluster://HOST1:PORT" in text


def test_a_sentinel_is_refused_by_name(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"redis_version": "7.0.15", "redis_mode": "sentinel"}
    monkeypatch.setattr(redis.Redis, "info", lambda *_, **__: told)
    text = _refused(pair.first.url)
    assert "is a Redis Sentinel" in text
    assert "redis+sentinel://HOST1:PORT" in text


def test_one_that_is_still_loading_is_refused_by_name(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        with server.client() as client:
            for number in range(1000):
                client.set(f"filler:{number}", os.urandom(2000))
            client.bgrewriteaof()
            until = time.monotonic() + WAIT_S
            while client.info("persistence")["aof_rewrite_in_progress"]:
                assert time.monotonic() < until, "its log is not rewritten"
                time.sleep(0.01)
        server.kill()
        slowly = (
            "--key-load-delay",
            str(_SLOW_LOAD_US),
            "--loading-process-events-interval-bytes",
            "1024",
        )
        server.begin(*slowly)
        assert "is still loading its data" in _refused(server.url)
