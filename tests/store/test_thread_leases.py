"""The store's thread keeps the leases, and never believes in one that may have run out (R5)."""

from __future__ import annotations

import math

import pytest

from carousel_server.core.errors import CarouselError
from carousel_server.core.store import Acquire
from carousel_server.store import MemoryStore, StoreThread
from carousel_server.store.faults import unavailable

from .media import ALICE, BOB, KEY, NEW
from .recorded import TTL_S, Clock, Recorded, acquired, submit


def test_leases_are_renewed_three_times_a_ttl(
    thread: StoreThread, recorded: Recorded, clock: Clock
) -> None:
    began_s = clock()
    assert thread.lease_until_s == began_s + TTL_S
    while clock.now_s < began_s + 2 * TTL_S - 0.05:
        clock.now_s += 0.1
        thread.run_pending()
    assert recorded.calls.count("renew") == 5
    assert clock.now_s + TTL_S / 2 < thread.lease_until_s <= clock.now_s + TTL_S
    assert thread.lease_lost == 0


def test_the_lease_counts_from_before_the_renewal_was_sent(
    thread: StoreThread, recorded: Recorded, clock: Clock
) -> None:
    clock.now_s += 4
    sent_s = clock()

    def slow(call: str) -> None:
        clock.now_s += 2.5

    recorded.on_call = slow
    thread.run_pending()
    assert thread.lease_until_s == sent_s + TTL_S


def test_a_lease_that_the_store_calls_lost_is_counted(
    thread: StoreThread, recorded: Recorded, clock: Clock
) -> None:
    del recorded.medium.leases[ALICE]
    clock.now_s += 4
    thread.run_pending()
    assert thread.lease_lost == 1
    assert thread.lease_until_s == clock() + TTL_S
    clock.now_s += 4
    thread.run_pending()
    assert thread.lease_lost == 1


def test_a_pause_longer_than_the_lease_is_counted_once(
    thread: StoreThread, recorded: Recorded, clock: Clock
) -> None:
    """The process was stopped, or the machine asleep."""
    clock.now_s += 11
    thread.run_pending()
    assert thread.lease_lost == 1
    assert thread.lease_until_s == clock() + TTL_S


def test_an_outage_longer_than_the_lease_is_counted_while_it_lasts(
    thread: StoreThread, recorded: Recorded, clock: Clock
) -> None:
    """So that clients go to a replica that can reach the store."""
    until_s = thread.lease_until_s
    recorded.fault = unavailable()
    for _ in range(30):
        clock.now_s += 0.5
        thread.run_pending()
        assert thread.lease_lost == (clock.now_s > until_s)
        assert thread.lease_until_s == until_s
    recorded.fault = None
    clock.now_s += 1
    thread.run_pending()
    assert thread.lease_lost == 1
    assert thread.lease_until_s > clock()


def test_a_renewal_that_takes_longer_than_the_lease_is_a_lost_one(
    thread: StoreThread, recorded: Recorded, clock: Clock
) -> None:
    clock.now_s += 4

    def very_slow(call: str) -> None:
        clock.now_s += 11

    recorded.on_call = very_slow
    thread.run_pending()
    assert thread.lease_lost == 1
    assert thread.lease_until_s < clock()


def test_an_answer_after_the_end_of_the_lease_that_it_renews_comes_too_late(
    thread: StoreThread, recorded: Recorded, clock: Clock
) -> None:
    """In between another replica could have had the sessions."""
    clock.now_s += 4
    sent_s = clock()

    def slow(call: str) -> None:
        clock.now_s += 7

    recorded.on_answer = slow
    thread.run_pending()
    assert thread.lease_lost == 1
    assert thread.lease_until_s == sent_s + TTL_S


def test_an_acquire_renews_where_the_last_try_failed(
    thread: StoreThread, recorded: Recorded, clock: Clock
) -> None:
    """The store is back just now, and the next try would be a second away."""
    clock.now_s += 11
    recorded.fault = unavailable()

    def come_back(call: str) -> None:
        if recorded.calls == ["renew", "renew"]:
            recorded.fault = None

    recorded.on_call = come_back
    (reply,) = submit(thread, Acquire(KEY, 0, NEW))
    thread.run_pending()
    assert recorded.calls[:3] == ["renew", "renew", "acquire"]
    assert reply.result(0).epoch == 1
    assert thread.lease_until_s == clock() + TTL_S


def test_nothing_is_acquired_without_a_living_lease(
    thread: StoreThread, recorded: Recorded, clock: Clock
) -> None:
    """Another replica could take it at once."""
    (key,) = acquired(thread, "s1")
    del recorded.medium.leases[ALICE]
    clock.now_s += 11
    recorded.calls.clear()
    submit(thread, Acquire(key))
    thread.run_pending()
    assert recorded.calls.index("renew") < recorded.calls.index("acquire")
    bob = MemoryStore(recorded.medium, owner=BOB, now=clock, lease_ttl_s=TTL_S)
    with pytest.raises(CarouselError, match="SESSION_HELD"):
        bob.acquire(key, epoch_floor=0, new=None)


def test_leases_that_do_not_run_out_are_taken_once(clock: Clock) -> None:
    recorded = Recorded(clock, math.inf)
    thread = StoreThread(recorded, clock=clock)
    for _ in range(3):
        clock.now_s += 1e9
        thread.run_pending()
    assert recorded.calls.count("renew") == 1
    assert thread.lease_until_s == math.inf
    assert thread.lease_lost == 0
