"""Replicas find each other in the store, and ask each other for sessions."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from carousel_server.core.errors import CarouselError
from carousel_server.core.replicas import MAIL_MOST
from carousel_server.core.store import (
    Announcement,
    Asked,
    AskFor,
    Held,
    Holding,
    Replica,
    SessionKey,
    Store,
)
from carousel_server.store import (
    MemoryMedium,
    MemoryStore,
    SqliteStore,
    memory,
    redis,
    sqlite_shared,
)

from .media import ALICE, BOB, KEY, NEW, InSharedSqlite, Medium

A, B = Announcement("a.internal:1", True, 3), Announcement("b.internal:2", False, 0)
OTHER = SessionKey("tenant", "with space/and slash")


@pytest.fixture
def alice(shared: Medium) -> Store:
    store = shared.open(ALICE)
    store.renew(A)
    return store


@pytest.fixture
def bob(shared: Medium) -> Store:
    store = shared.open(BOB)
    store.renew(B)
    return store


def held(store: Store, key: SessionKey = KEY) -> Held:
    with pytest.raises(Held) as error:
        store.acquire(key, epoch_floor=0, new=None)
    return error.value


def test_requests_are_put_into_mailboxes_together(alice: Store, bob: Store) -> None:
    wanted = [AskFor(KEY, ALICE, False), AskFor(OTHER, BOB, True), AskFor(OTHER, ALICE, True)]
    bob.ask_for_all(wanted, B.address)
    bob.ask_for_all([], B.address)
    assert list(alice.asked(9)) == [Asked(KEY, False, B.address), Asked(OTHER, True, B.address)]
    assert list(bob.asked(9)) == [Asked(OTHER, True, B.address)]


# -- announcements


def test_each_replica_sees_what_all_have_announced(alice: Store, bob: Store) -> None:
    both = [Replica(ALICE, A), Replica(BOB, B)]
    assert list(alice.replicas()) == list(bob.replicas()) == both
    changed = Announcement("a.internal:1", False, 2)
    assert alice.renew(changed)
    assert next(iter(bob.replicas())).said == changed


def test_a_replica_without_an_address_is_not_listed(alice: Store, shared: Medium) -> None:
    shared.open("carol:3").renew()
    assert [one.name for one in alice.replicas()] == [ALICE]


def test_a_dead_or_closed_replica_is_not_listed(alice: Store, bob: Store, shared: Medium) -> None:
    shared.run_out(BOB)
    assert [one.name for one in alice.replicas()] == [ALICE]
    alice.close()
    assert list(bob.replicas()) == []


def test_sqlite_lists_its_only_replica(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "s.db", owner=ALICE)
    assert list(store.replicas()) == []
    assert store.renew(A)
    assert list(store.replicas()) == [Replica(ALICE, A)]
    store.ask_for(KEY, ALICE, take_over=True, by="x:1")
    store.keep([KEY])
    assert list(store.asked(10)) == []
    store.close()


# -- the error


def test_the_refusal_names_the_holder(alice: Store, bob: Store) -> None:
    alice.acquire(KEY, epoch_floor=0, new=NEW)
    error = held(bob)
    assert (error.holder, error.address, error.kept) == (ALICE, A.address, False)
    assert error.metadata == {"owner": A.address}
    assert error.retry_after_s is not None
    assert 0 < error.retry_after_s <= 30


def test_a_holder_without_an_address_gives_no_owner(bob: Store, shared: Medium) -> None:
    shared.open("carol:3").acquire(KEY, epoch_floor=0, new=NEW)
    error = held(bob)
    assert (error.holder, error.address, error.metadata) == ("carol:3", "", {})


def test_the_refusal_reaches_another_process_with_its_owner(alice: Store, bob: Store) -> None:
    alice.acquire(KEY, epoch_floor=0, new=NEW)
    error = pickle.loads(pickle.dumps(held(bob)))
    assert type(error) is CarouselError
    assert (error.reason, error.metadata) == ("SESSION_HELD", {"owner": A.address})


# -- mailboxes


def test_requests_reach_the_holder_in_order_and_once(alice: Store, bob: Store) -> None:
    bob.ask_for(KEY, ALICE, take_over=False, by=B.address)
    bob.ask_for(OTHER, ALICE, take_over=True, by=B.address)
    assert list(bob.asked(10)) == []
    assert list(alice.asked(1)) == [Asked(KEY, False, B.address)]
    assert list(alice.asked(10)) == [Asked(OTHER, True, B.address)]
    assert list(alice.asked(10)) == []


def test_a_full_mailbox_drops_requests(
    alice: Store, bob: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for room in (memory, redis, sqlite_shared):
        monkeypatch.setattr(room, "MAIL_MOST", 5)
    for number in range(8):
        bob.ask_for(SessionKey("t", str(number)), ALICE, take_over=False, by="b:1")
    assert [one.key.id for one in alice.asked(100)] == list("01234")
    bob.ask_for(KEY, ALICE, take_over=False, by="b:1")
    assert [one.key for one in alice.asked(10)] == [KEY]


def test_a_holder_that_keeps_a_session_says_so(alice: Store, bob: Store) -> None:
    for key in (KEY, OTHER):
        alice.acquire(key, epoch_floor=0, new=NEW)
    alice.keep([KEY, SessionKey("tenant", "unknown")])
    assert held(bob).kept
    assert not held(bob, OTHER).kept


def test_only_the_holder_can_keep_a_session(alice: Store, bob: Store, shared: Medium) -> None:
    alice.acquire(KEY, epoch_floor=0, new=NEW)
    bob.keep([KEY])
    assert not held(bob).kept
    alice.keep([KEY])
    alice.release([Holding(KEY, 1, shared.now())])
    bob.acquire(KEY, epoch_floor=0, new=None)
    assert not held(alice).kept, "the answer was that of the former holder"


class Clock:
    now_s = 1e9

    def __call__(self) -> float:
        return self.now_s


def test_requests_and_answers_expire() -> None:
    clock, medium = Clock(), MemoryMedium()
    alice, bob = (
        MemoryStore(medium, owner=name, now=clock, lease_ttl_s=30.0) for name in (ALICE, BOB)
    )
    alice.acquire(KEY, epoch_floor=0, new=NEW)
    alice.keep([KEY])
    bob.ask_for(KEY, ALICE, take_over=False, by="b:1")
    clock.now_s += 2.5
    assert not held(bob).kept
    assert list(alice.asked(10)) == []
    alice.keep([])
    assert not medium.answers
    for _ in range(2 * MAIL_MOST):
        clock.now_s += 0.001
        bob.ask_for(KEY, "gone:9", take_over=False, by="b:1")
    assert len(medium.mailboxes["gone:9"]) <= 2001, "nobody reads it"


def test_a_medium_that_rolls_back_has_lost_its_mail() -> None:
    medium = MemoryMedium()
    alice, bob = (MemoryStore(medium, owner=name, lease_ttl_s=30.0) for name in (ALICE, BOB))
    earlier = medium.copy()
    bob.ask_for(KEY, ALICE, take_over=False, by="b:1")
    medium.roll_back(earlier)
    assert list(alice.asked(10)) == []


def test_what_is_in_a_file_expires_by_its_clock(in_shared_sqlite: InSharedSqlite) -> None:
    alice, bob = (in_shared_sqlite.open(name) for name in (ALICE, BOB))
    alice.acquire(KEY, epoch_floor=0, new=NEW)
    alice.keep([KEY])
    bob.ask_for(KEY, ALICE, take_over=False, by="b:1")
    bob.ask_for(KEY, "gone:9", take_over=False, by="b:1")
    assert held(bob).kept
    later_s = bob.now_unix_s() + 2.5
    for store in (alice, bob):
        store._now = lambda: later_s  # type: ignore[assignment]
    assert not held(bob).kept
    assert list(alice.asked(10)) == []
    bob.ask_for(OTHER, ALICE, take_over=True, by="b:1")
    assert bob._db.execute("SELECT id, take_over FROM mail").fetchall() == [(OTHER.id, 1)]
    alice.keep([])
    assert bob._db.execute("SELECT count(*) FROM kept").fetchone() == (0,)
    bob._now = lambda: later_s + 60.0  # type: ignore[assignment]
    bob.renew(B)
    assert [one.name for one in bob.replicas()] == [BOB], "the lease of the other has expired"


def test_a_first_replica_finds_no_mail_of_former_lives(in_shared_sqlite: InSharedSqlite) -> None:
    bob = in_shared_sqlite.open(BOB)
    bob.renew(B)
    bob.ask_for(KEY, ALICE, take_over=False, by=B.address)
    in_shared_sqlite.kill(bob)
    alice = in_shared_sqlite.open(ALICE)
    assert list(alice.asked(10)) == []
    assert list(alice.replicas()) == []
