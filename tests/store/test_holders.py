"""A record names the live replica that holds its session, at the cost of no round trip a session."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

import pytest

from carousel_server.core.store import Announcement, Holder, Holding, SessionKey, Store
from carousel_server.store.redis_node import Call, Node

from .media import ALICE, BOB, KEY, NEW, InRedis, InSharedSqlite, Medium, commit

A, B = Announcement("a.internal:1", True, 3), Announcement("b.internal:2", False, 0)
SESSIONS = 300


@pytest.fixture
def alice(shared: Medium) -> Store:
    return shared.open(ALICE)


@pytest.fixture
def bob(shared: Medium) -> Store:
    return shared.open(BOB)


def holders(store: Store) -> tuple[Holder | None, Holder | None]:
    """As `read` and as `list` have it."""
    (listed,) = store.list("tenant", "", 10)
    return store.read(KEY).holder, listed.holder


def test_the_holder_is_named_to_itself_and_to_others(alice: Store, bob: Store) -> None:
    alice.renew(A)
    record = alice.acquire(KEY, epoch_floor=0, new=NEW)
    assert record.holder == Holder(ALICE, A.address, is_own=True)
    assert holders(alice) == (Holder(ALICE, A.address, is_own=True),) * 2
    assert holders(bob) == (Holder(ALICE, A.address, is_own=False),) * 2
    alice.commit([commit(5)], fsync=False)
    assert holders(bob) == (Holder(ALICE, A.address, is_own=False),) * 2, "a commit changes nothing"


def test_its_address_is_that_of_its_last_renewal(alice: Store, bob: Store) -> None:
    assert alice.acquire(KEY, epoch_floor=0, new=NEW).holder == Holder(ALICE, "", is_own=True)
    assert holders(bob) == (Holder(ALICE, "", is_own=False),) * 2, "not announced yet"
    alice.renew(A)
    assert holders(bob) == (Holder(ALICE, A.address, is_own=False),) * 2


def test_nobody_holds_what_was_released(alice: Store, bob: Store, shared: Medium) -> None:
    alice.acquire(KEY, epoch_floor=0, new=NEW)
    alice.release([Holding(KEY, 1, shared.now())])
    assert holders(bob) == (None, None)
    assert not bob.read(KEY).held
    bob.renew(B)
    bob.acquire(KEY, epoch_floor=0, new=None)
    assert holders(alice) == (Holder(BOB, B.address, is_own=False),) * 2


def test_nobody_holds_what_a_dead_replica_held(alice: Store, bob: Store, shared: Medium) -> None:
    alice.renew(A)
    alice.acquire(KEY, epoch_floor=0, new=NEW)
    shared.run_out(ALICE)
    assert holders(bob) == (None, None)


def test_nobody_holds_what_a_former_life_held(alice: Store, bob: Store, shared: Medium) -> None:
    alice.acquire(KEY, epoch_floor=0, new=NEW)
    again = shared.open(ALICE)
    assert holders(again) == holders(bob) == (None, None)


def test_a_list_names_each_holder(alice: Store, bob: Store, shared: Medium) -> None:
    alice.renew(A)
    bob.renew(B)
    for number, store in enumerate((alice, bob, alice)):
        store.acquire(SessionKey("tenant", f"s{number}"), epoch_floor=0, new=NEW)
    alice.release([Holding(SessionKey("tenant", "s2"), 1, shared.now())])
    assert [record.holder for record in bob.list("tenant", "", 10)] == [
        Holder(ALICE, A.address, is_own=False),
        Holder(BOB, B.address, is_own=True),
        None,
    ]


def test_a_list_makes_no_round_trip_a_session_in_redis(
    in_redis: InRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, bob = in_redis.open(ALICE), in_redis.open(BOB)
    fill(alice)
    trips, send = [], Node.send

    def counted(node: Node, calls: Sequence[Call], *, asking: bool = False) -> list[Any]:
        trips.append(len(calls))
        return send(node, calls, asking=asking)

    monkeypatch.setattr(Node, "send", counted)
    assert len(held_by(bob, ALICE)) == SESSIONS
    assert len(trips) <= 2 * (SESSIONS // 256 + 1), "a page is one trip for ids and one for facts"


def test_a_list_makes_no_statement_a_session_in_sqlite(in_shared_sqlite: InSharedSqlite) -> None:
    alice, bob = in_shared_sqlite.open(ALICE), in_shared_sqlite.open(BOB)
    fill(alice)
    statements: list[str] = []
    database: sqlite3.Connection = bob._db
    database.set_trace_callback(statements.append)
    assert len(held_by(bob, ALICE)) == SESSIONS
    assert len(statements) <= 3, statements


def fill(store: Store) -> None:
    for number in range(SESSIONS):
        store.acquire(SessionKey("tenant", f"s{number}"), epoch_floor=0, new=NEW)


def held_by(store: Store, name: str) -> list[str]:
    listed = store.list("tenant", "", SESSIONS)
    return [one.key.id for one in listed if one.holder == Holder(name, "", is_own=False)]
