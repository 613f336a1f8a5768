"""What only Redis can do wrong: not be there, forget, refuse, be of the wrong kind."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from support.redis import RedisServer

from carousel_server.core.errors import CarouselError
from carousel_server.core.store import Holding, Outcome, SessionKey, Verdict
from carousel_server.core.types import Durability
from carousel_server.store import StoreError, open_store
from carousel_server.store.redis import RedisStore
from carousel_server.store.redis_node import LIBRARY

from .media import ALICE, KEY, NEW, InRedis, commit

SECRET = "hunter2"


def refusal(url: str) -> str:
    with pytest.raises(StoreError) as error:
        RedisStore(url, ALICE, 1.0)
    text = str(error.value)
    cause, fix = text.splitlines()
    assert cause
    assert fix
    assert SECRET not in text
    return text


# -- what is promised


def test_killed_and_started_again_it_has_what_was_committed(tmp_path: Path) -> None:
    with RedisServer(tmp_path, appendfsync="always") as server:
        store = RedisStore(server.url, ALICE, 30.0)
        assert Durability.SYNC_FSYNC in store.levels
        store.acquire(KEY, epoch_floor=0, new=NEW)
        for seq in range(1, 50):
            store.commit([commit(seq)], fsync=True)
        server.kill()
        with pytest.raises(CarouselError) as error:
            store.commit([commit(50)], fsync=True)
        assert error.value.reason == "STORE_UNAVAILABLE"
        assert error.value.retry_after_s
        for call in (store.renew, store.statistics, lambda: store.list("tenant", "", 1)):
            with pytest.raises(CarouselError, match="STORE_UNAVAILABLE"):
                call()
        server.start()
        assert store.commit([commit(50)], fsync=True) == [Outcome(Verdict.DONE, 1, 50)]
        assert store.renew()
        store.close()


def test_without_a_log_that_is_synced_there_is_no_fsync_level(in_redis: InRedis) -> None:
    assert Durability.SYNC_FSYNC not in in_redis.open().levels


def test_an_answer_that_was_lost_is_stale_the_second_time(in_redis: InRedis) -> None:
    """The server has done it, and the connection broke before it could say so."""
    store = in_redis.open()
    store.acquire(KEY, epoch_floor=0, new=NEW)
    send = store._link._send

    def lose(calls: object) -> list[object]:
        send(calls)  # type: ignore[arg-type]
        store._link._send = send  # type: ignore[method-assign]
        import redis

        raise redis.TimeoutError("lost")

    store._link._send = lose  # type: ignore[method-assign]
    with pytest.raises(CarouselError, match="STORE_UNAVAILABLE"):
        store.commit([commit(1)], fsync=False)
    assert store.commit([commit(1)], fsync=False) == [Outcome(Verdict.DONE, 1, 1)]


def test_a_large_group_takes_several_calls(in_redis: InRedis) -> None:
    store = in_redis.open()
    keys = [SessionKey("tenant", f"s{number}") for number in range(100)]
    for key in keys:
        store.acquire(key, epoch_floor=0, new=NEW)
    outcomes = store.commit([commit(n + 1, key=key) for n, key in enumerate(keys)], fsync=False)
    assert outcomes == [Outcome(Verdict.DONE, 1, n + 1) for n in range(100)]


# -- what the server may have lost or lack


def test_functions_that_were_lost_are_loaded_again(in_redis: InRedis) -> None:
    store = in_redis.open()
    store.acquire(KEY, epoch_floor=0, new=NEW)
    with in_redis.server.client() as client:
        client.function_delete(LIBRARY)
    assert store.commit([commit(1)], fsync=False)[0].verdict is Verdict.DONE


def test_a_cut_connection_is_opened_again(in_redis: InRedis) -> None:
    store = in_redis.open()
    with in_redis.server.client() as client:
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    assert store.renew()


def test_a_server_that_lost_everything_fences_all(in_redis: InRedis) -> None:
    store = in_redis.open()
    store.acquire(KEY, epoch_floor=0, new=NEW)
    with in_redis.server.client() as client:
        for key in client.scan_iter(match=f"*{in_redis.prefix}*"):
            client.delete(key)
    assert store.commit([commit(1)], fsync=False) == [Outcome(Verdict.FENCED, 0, 0)]
    assert not store.renew()
    record = store.acquire(KEY, epoch_floor=8, new=NEW)
    assert record.epoch == 9, "above what the client has seen (R13)"


def test_a_full_memory_refuses_commits_and_still_renews(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        store = RedisStore(server.url, ALICE, 30.0)
        store.acquire(KEY, epoch_floor=0, new=NEW)
        with server.client() as client:
            client.config_set("maxmemory", "1mb")
        with pytest.raises(CarouselError, match="memory is full") as error:
            store.commit([commit(1)], fsync=False)
        assert error.value.reason == "STORE_UNAVAILABLE"
        assert store.renew()
        store.release([Holding(KEY, 1, 1e10)])
        assert store.remove(KEY, 1, "SESSION_CLOSED") is Verdict.DONE
        with server.client() as client:
            client.config_set("maxmemory", "0")
        assert store.acquire(KEY, epoch_floor=0, new=NEW).epoch == 2
        store.close()


def test_reasons_are_forgotten_after_a_day(in_redis: InRedis) -> None:
    store = in_redis.open()
    store.acquire(KEY, epoch_floor=0, new=NEW)
    store.remove(KEY, 1, "SESSION_CLOSED")
    with in_redis.server.client() as client:
        assert 86_000 < client.ttl(f"{{{in_redis.prefix}}}:ended:tenant/s1") <= 86_400


def test_an_ended_session_leaves_nothing_else_behind(in_redis: InRedis) -> None:
    store = in_redis.open()
    store.acquire(KEY, epoch_floor=0, new=NEW)
    store.commit([commit(1)], fsync=False)
    store.remove(KEY, 1, "SESSION_CLOSED")
    store.close()
    with in_redis.server.client() as client:
        left = set(client.scan_iter(match=f"*{in_redis.prefix}*"))
    assert left == {
        f"{{{in_redis.prefix}}}:{end}".encode() for end in ("ended:tenant/s1", "layout")
    }


# -- opening


def test_eviction_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = ("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
    with RedisServer(tmp_path, *options) as server, caplog.at_level(logging.WARNING):
        RedisStore(server.url, ALICE, 1.0).close()
    assert "sessions can be lost" in caplog.text


def test_a_password_is_used_and_never_shown(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        with server.client() as client:
            client.config_set("requirepass", SECRET)
        place = f"127.0.0.1:{server.port}/0"
        RedisStore(f"redis://:{SECRET}@{place}", ALICE, 1.0).close()
        RedisStore(f"redis://default:{SECRET}@{place}", ALICE, 1.0).close()
        assert "refuses the user or the password" in refusal(f"redis://:{SECRET}x@{place}")
        assert "refuses the user or the password" in refusal(f"redis://{place}")


def test_a_user_that_may_not_load_functions_is_refused(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        with server.client() as client:
            client.acl_setuser("x", enabled=True, passwords=[f"+{SECRET}"], commands=["+info"])
        text = refusal(f"redis://x:{SECRET}@127.0.0.1:{server.port}/0")
        assert "FUNCTION LOAD" in text


def test_an_unreachable_server_is_named_without_its_password(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        port = server.port
    text = refusal(f"redis://:{SECRET}@127.0.0.1:{port}/0")
    assert f"redis at 127.0.0.1:{port} cannot be reached" in text


@pytest.mark.parametrize(
    "url",
    [
        f"redis://u:{SECRET}/x@localhost:port/0",
        f"redis://:{SECRET}@localhost:99999999/0",
        f"redis://:{SECRET}@localhost/0?socket_timeout=soon",
        f"redis://:{SECRET}@localhost/0?{SECRET}=1",
    ],
)
def test_a_url_that_cannot_be_read_is_not_repeated(url: str) -> None:
    assert "URL cannot be read" in refusal(url)


def test_an_old_server_is_refused(in_redis: InRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    import redis

    monkeypatch.setattr(redis.Redis, "info", lambda *_, **__: {"redis_version": "6.2.14"})
    assert "Redis 6.2.14" in refusal(in_redis.server.url)


def test_open_store_opens_it(in_redis: InRedis) -> None:
    store = open_store(in_redis.server.url, replica=ALICE, lease_ttl_s=3.0)
    assert (store.name, store.lease_ttl_s) == ("redis", 3.0)
    store.close()
