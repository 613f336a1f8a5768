"""All stores answer alike, whatever they are asked in whatever order."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.redis import RedisServer

from carousel_server.core.errors import CarouselError
from carousel_server.core.store import Holding, Record, SessionKey, Store
from carousel_server.store import MemoryStore

from .media import NEW, InRedis, InSqlite, commit

Question = Callable[[Store], object]

keys = st.builds(SessionKey, st.sampled_from(["t", "u"]), st.sampled_from("abc"))
epochs = st.integers(1, 4)
AGE_S = 1000.0
"""Older than any idle_ttl of the test."""


def facts(record: Record) -> tuple[object, ...]:
    """All but the instants: each store has a clock of its own."""
    is_own = record.holder is not None and record.holder.is_own
    return (
        *(record.key, record.session, record.epoch, record.seq),
        *(record.snapshot, record.held, is_own, record.created),
    )


def acquire(key: SessionKey, floor: int, opens: bool) -> Question:
    return lambda store: facts(store.acquire(key, epoch_floor=floor, new=NEW if opens else None))


def release(key: SessionKey, epoch: int, expires: bool, now: float) -> Question:
    return lambda store: store.release([Holding(key, epoch, now - AGE_S if expires else now)])


questions = st.one_of(
    st.builds(acquire, keys, st.integers(0, 3), st.booleans()),
    st.builds(acquire, keys, st.just(0), st.just(True)),
    st.lists(st.builds(commit, st.integers(1, 6), epochs, keys), max_size=4).map(
        lambda group: lambda store: store.commit(group, fsync=False)
    ),
    st.builds(release, keys, epochs, st.booleans(), st.just(4e9)),
    st.builds(release, keys, epochs, st.just(True), st.just(1e9)),
    st.builds(
        lambda key, epoch: lambda store: store.remove(key, epoch, "SESSION_CLOSED"), keys, epochs
    ),
    keys.map(lambda key: lambda store: facts(store.read(key))),
    st.builds(
        lambda after, limit: lambda store: [facts(r) for r in store.list("t", after, limit)],
        st.sampled_from(["", "a", "b"]),
        st.integers(0, 3),
    ),
    st.just(lambda store: store.renew()),
    st.just(lambda store: store.statistics().sessions),
)


def answer(store: Store, question: Question) -> object:
    try:
        return question(store)
    except CarouselError as error:
        return error.reason


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=st.lists(questions, min_size=5, max_size=40))
def test_they_agree(redis_server: RedisServer, asked: list[Question]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        in_sqlite, in_redis = InSqlite(Path(folder)), InRedis(redis_server)
        stores: list[Store] = [MemoryStore(), MemoryStore(lease_ttl_s=30.0)]
        stores += [in_sqlite.open(), in_redis.open()]
        for question in asked:
            answers = [answer(store, question) for store in stores]
            assert answers == [answers[0]] * len(stores)
        for store in stores:
            store.close()
