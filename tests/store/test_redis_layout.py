"""A store that an older version has written, with one hash tag and leases in keys of their own."""

from __future__ import annotations

import time

import pytest
import redis

from carousel_server.core.errors import CarouselError
from carousel_server.core.store import Outcome, SessionKey, Verdict
from carousel_server.core.types import Durability
from carousel_server.store import StoreError
from carousel_server.store.redis import RedisStore

from .media import ALICE, KEY, InRedis, commit

ENDED = SessionKey("tenant", "ended")
EXPIRED = SessionKey("tenant", "expired")


@pytest.fixture
def old(in_redis: InRedis) -> InRedis:
    """As carousel_v2 left it: a session with its snapshot, one that has ended, and one to be swept."""
    tag, now = f"{{{in_redis.prefix}}}:", time.time()
    with in_redis.server.client() as client:
        for session_id, used in (("s1", now), ("expired", now - 1000)):
            client.hset(
                f"{tag}session:tenant/{session_id}",
                mapping={
                    "epoch": "7",
                    "owner": "gone:1/abc",
                    "last_used": repr(used),
                    "seq": "40",
                    "snapshot": b"snapshot 40",
                    "model": "m",
                    "durability": "2",
                    "idle_ttl": "100.0",
                    "seed": "5",
                    "created_at": "1234.5",
                },
            )
            client.zadd(f"{tag}ids:tenant", {session_id: 0})
            client.zadd(f"{tag}expiry", {f"tenant/{session_id}": used + 100})
        client.set(f"{tag}ended:tenant/ended", "SESSION_CLOSED 3")
    return in_redis


def test_its_sessions_continue(old: InRedis) -> None:
    store = old.open()
    assert len(store._keys.shards) == 1
    assert [one.key for one in store.list("tenant", "", 10)] == [KEY]
    assert not store.read(KEY).held
    record = store.acquire(KEY, epoch_floor=0, new=None)
    assert (record.epoch, record.seq, record.snapshot) == (8, 40, b"snapshot 40")
    assert record.session.durability is Durability.ASYNC
    assert store.commit([commit(41, 8)], fsync=False) == [Outcome(Verdict.DONE, 8, 41)]
    with pytest.raises(CarouselError, match="SESSION_CLOSED"):
        store.acquire(ENDED, epoch_floor=0, new=None)
    assert store.sweep(store.now_unix_s(), 10) == 1
    with pytest.raises(CarouselError, match="SESSION_EXPIRED"):
        store.read(EXPIRED)


def test_it_keeps_its_one_tag(old: InRedis) -> None:
    with pytest.raises(StoreError, match="made with shards=1, and its URL says 4"):
        RedisStore(f"{old.server.url}?shards=4", ALICE, 30.0, prefix=old.prefix)
    assert len(old.open()._keys.shards) == 1


def test_a_server_that_still_runs_is_named(old: InRedis) -> None:
    """Each version would take the other's sessions as free."""
    lease = f"{{{old.prefix}}}:lease:alice.internal:50051"
    with old.server.client() as client:
        client.set(lease, "boot", px=60_000)
        for _ in range(2):
            with pytest.raises(StoreError) as error:
                old.open()
            cause, fix = str(error.value).splitlines()
            assert "'alice.internal:50051' of an older version runs" in cause
            assert "stop all servers of that version" in fix
        client.delete(lease)
    assert old.open().read(KEY).seq == 40


def test_one_server_may_have_several_shards_too(in_redis: InRedis) -> None:
    url = f"{in_redis.server.url}?shards=4"
    store = RedisStore(url, ALICE, 30.0, prefix=in_redis.prefix)
    assert len(store._keys.shards) == 4
    store.close()
    assert len(in_redis.open()._keys.shards) == 4


def test_a_store_that_does_not_answer_at_the_start_is_named(
    in_redis: InRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object, **__: object) -> object:
        raise redis.ConnectionError

    monkeypatch.setattr("carousel_server.store.redis_node.Node.send", lost)
    with pytest.raises(StoreError, match="the store does not answer"):
        in_redis.open()
