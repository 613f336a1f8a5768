"""The store's thread announces its replica, lists the others, and reads its mailbox."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import pytest

from carousel_server.core.store import Acquire, Announcement, Asked, AskFor, Held, Keep, Replica
from carousel_server.store import MemoryStore, StoreThread
from carousel_server.store.faults import unavailable

from .media import ALICE, BOB, KEY, NEW
from .recorded import TTL_S, Clock, Recorded, acquired, submit

HERE = "a.internal:1"


@pytest.fixture
def bob(recorded: Recorded, clock: Clock) -> MemoryStore:
    """Another live replica on the same medium."""
    store = MemoryStore(recorded.medium, owner=BOB, now=clock, lease_ttl_s=TTL_S)
    store.renew(Announcement("b.internal:2"))
    return store


@pytest.fixture
def mail(thread: StoreThread, bob: MemoryStore) -> list[Asked]:
    """What the thread hands on. It is announced, and knows the other replica."""
    handed: list[Asked] = []
    thread.hand_asked_to(handed.extend)
    thread.advertise(HERE)
    thread.run_pending()
    return handed


def test_a_replica_is_announced_once_it_can_be_reached(thread: StoreThread, clock: Clock) -> None:
    assert list(thread.replicas) == []
    thread.advertise(HERE)
    thread.run_pending()
    assert list(thread.replicas) == [Replica(ALICE, Announcement(HERE, True, 0))]


def test_a_number_of_sessions_waits_for_the_renewal_and_a_drain_does_not(
    thread: StoreThread, recorded: Recorded, clock: Clock
) -> None:
    thread.advertise(HERE)
    thread.run_pending()
    recorded.calls.clear()
    thread.announce(accepting=True, sessions=7)
    thread.run_pending()
    assert "renew" not in recorded.calls
    thread.announce(accepting=False, sessions=8)
    assert thread.said == Announcement(HERE, False, 8)
    thread.run_pending()
    assert recorded.calls.count("renew") == 1
    assert list(thread.replicas) == [Replica(ALICE, thread.said)]
    clock.now_s += TTL_S / 2
    thread.run_pending()
    assert recorded.calls.count("renew") == 2


def test_a_store_without_leases_lists_its_only_replica(clock: Clock) -> None:
    thread = StoreThread(Recorded(clock, math.inf), clock=clock)
    thread.advertise(HERE)
    thread.run_pending()
    assert [one.said.address for one in thread.replicas] == [HERE]


def test_the_list_follows_each_renewal(thread: StoreThread, clock: Clock, bob: MemoryStore) -> None:
    thread.advertise(HERE)
    thread.run_pending()
    assert [one.name for one in thread.replicas] == [ALICE, BOB]
    clock.now_s += TTL_S / 2
    thread.run_pending()
    bob.close()
    assert [one.name for one in thread.replicas] == [ALICE, BOB]
    clock.now_s += TTL_S / 2
    thread.run_pending()
    assert [one.name for one in thread.replicas] == [ALICE]


def test_an_exchange_does_not_wait_for_the_renewal(
    thread: StoreThread, recorded: Recorded, clock: Clock
) -> None:
    """As before a drain: another replica may have become ready a moment ago."""
    thread.advertise(HERE)
    thread.run_pending()
    late = MemoryStore(recorded.medium, owner=BOB, now=clock, lease_ttl_s=TTL_S)
    late.renew(Announcement("b.internal:2"))
    thread.announce(accepting=False, sessions=3)
    exchanged = thread.exchange()
    assert thread._idle_s() == 0
    assert not exchanged.done()
    thread.run_pending()
    assert exchanged.result(0) is None
    assert [one.said.address for one in thread.replicas] == [HERE, "b.internal:2"]
    assert list(late.replicas()) == list(thread.replicas)


def test_an_exchange_waits_for_an_announcement_that_is_written_after_it(
    thread: StoreThread, recorded: Recorded
) -> None:
    thread.advertise(HERE)
    begun = []

    def meanwhile(name: str) -> None:
        if name == "renew" and not begun:
            begun.append(thread.exchange())

    recorded.on_answer = meanwhile
    thread.run_pending()
    assert not begun[0].done(), "the announcement in the store is from before"
    thread.run_pending()
    assert begun[0].done()


def test_an_exchange_lasts_while_the_store_is_away(
    thread: StoreThread, recorded: Recorded, clock: Clock
) -> None:
    thread.advertise(HERE)
    thread.run_pending()
    recorded.fault = unavailable()
    exchanged, given_up = thread.exchange(), thread.exchange()
    thread.run_pending()
    assert not exchanged.done()
    given_up.cancel()
    recorded.fault = None
    clock.now_s += TTL_S / 2
    thread.run_pending()
    assert exchanged.done()


def test_requests_of_others_are_handed_on_within_a_twentieth_of_a_second(
    thread: StoreThread, mail: list[Asked], bob: MemoryStore, clock: Clock
) -> None:
    bob.ask_for(KEY, ALICE, take_over=False, by="b.internal:2")
    assert 0 < thread._idle_s() <= 0.051
    clock.now_s += 0.051
    thread.run_pending()
    assert mail == [Asked(KEY, False, "b.internal:2")]
    thread.run_pending()
    assert len(mail) == 1


def test_the_last_request_for_a_session_counts_and_insists_if_one_did(
    thread: StoreThread, mail: list[Asked], bob: MemoryStore, clock: Clock
) -> None:
    bob.ask_for(KEY, ALICE, take_over=True, by="b.internal:2")
    bob.ask_for(KEY, ALICE, take_over=False, by="c.internal:3")
    clock.now_s += 0.051
    thread.run_pending()
    assert mail == [Asked(KEY, True, "c.internal:3")]


def test_a_lone_replica_does_not_read_its_mailbox(
    thread: StoreThread, mail: list[Asked], bob: MemoryStore, clock: Clock
) -> None:
    bob.close()
    clock.now_s += TTL_S / 2
    thread.run_pending()
    bob.ask_for(KEY, ALICE, take_over=False, by="b.internal:2")
    clock.now_s += 1.0
    thread.run_pending()
    assert mail == []
    assert thread._idle_s() > 0.05


def test_during_an_outage_the_mailbox_is_not_read(
    thread: StoreThread, mail: list[Asked], bob: MemoryStore, recorded: Recorded, clock: Clock
) -> None:
    """Each try would hold up the requests behind it."""
    recorded.fault = unavailable()
    submit(thread, Acquire(KEY, 0, NEW))
    thread.run_pending()
    assert thread.fault
    recorded.calls.clear()
    bob.ask_for(KEY, ALICE, take_over=False, by="b.internal:2")
    clock.now_s += 0.2
    thread.run_pending()
    assert recorded.calls == []
    recorded.fault = None
    clock.now_s += 1.0
    submit(thread, Acquire(KEY, 0, NEW))
    thread.run_pending()
    assert thread.fault == ""
    assert [one.key for one in mail] == [KEY]


def test_a_defect_of_the_receiver_does_not_end_the_thread(
    thread: StoreThread, mail: list[Asked], bob: MemoryStore, clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    def defect(_asked: Sequence[Asked]) -> None:
        raise RuntimeError("oops")

    thread.hand_asked_to(defect)
    bob.ask_for(KEY, ALICE, take_over=False, by="b.internal:2")
    clock.now_s += 0.051
    with caplog.at_level(logging.ERROR):
        thread.run_pending()
    assert "because of a defect" in caplog.text
    acquired(thread, "s1")


def test_it_asks_by_its_own_address_and_answers(
    thread: StoreThread, mail: list[Asked], bob: MemoryStore
) -> None:
    (kept,) = acquired(thread, "s2")
    replies = submit(thread, AskFor(KEY, BOB, take_over=True), Keep([kept]))
    thread.run_pending()
    assert [reply.result(0) for reply in replies] == [None, None]
    assert list(bob.asked(10)) == [Asked(KEY, True, HERE)]
    with pytest.raises(Held) as error:
        bob.acquire(kept, epoch_floor=0, new=None)
    assert error.value.kept


def test_a_refusal_comes_through_the_thread_whole(
    thread: StoreThread, mail: list[Asked], bob: MemoryStore
) -> None:
    bob.acquire(KEY, epoch_floor=0, new=NEW)
    (reply,) = submit(thread, Acquire(KEY))
    thread.run_pending()
    error = reply.exception(0)
    assert isinstance(error, Held)
    assert (error.holder, error.address) == (BOB, "b.internal:2")
