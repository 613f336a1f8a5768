"""Several replicas on one medium: leases, and what happens when they run out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from carousel_server.core.errors import CarouselError
from carousel_server.core.store import Holding, Outcome, SessionKey, Store, Verdict

from .media import ALICE, BOB, KEY, NEW, InMemory, InRedis, Medium, commit


@pytest.fixture
def alice(shared: Medium) -> Store:
    return shared.open(ALICE)


@pytest.fixture
def bob(shared: Medium) -> Store:
    return shared.open(BOB)


def test_a_session_that_another_holds_is_refused_with_the_time_left(
    alice: Store, bob: Store
) -> None:
    alice.acquire(KEY, epoch_floor=0, new=NEW)
    for new in (None, NEW):
        with pytest.raises(CarouselError) as error:
            bob.acquire(KEY, epoch_floor=50, new=new)
        assert error.value.reason == "SESSION_HELD"
        assert error.value.retry_after_s is not None
        assert 0 < error.value.retry_after_s <= 30
    assert alice.read(KEY).epoch == 1


def test_others_may_read_what_one_holds(alice: Store, bob: Store) -> None:
    alice.acquire(KEY, epoch_floor=0, new=NEW)
    seen, own = bob.read(KEY), alice.read(KEY)
    assert seen.holder is not None
    assert replace(seen, holder=seen.holder._replace(is_own=True)) == own
    assert bob.list("tenant", "", 10)[0].held
    assert bob.statistics().sessions == 1


def test_a_released_session_goes_to_whoever_asks(alice: Store, bob: Store, shared: Medium) -> None:
    alice.acquire(KEY, epoch_floor=0, new=NEW)
    alice.commit([commit(9)], fsync=False)
    alice.release([Holding(KEY, 1, shared.now())])
    record = bob.acquire(KEY, epoch_floor=0, new=None)
    assert (record.epoch, record.seq, record.snapshot) == (2, 9, b"snapshot 9")
    assert alice.commit([commit(10)], fsync=False) == [Outcome(Verdict.FENCED, 2, 9)]
    alice.release([Holding(KEY, 1, 0.0)])
    assert bob.read(KEY).held, "a late release of the former holder changes nothing"


def test_a_lease_that_ran_out_frees_everything(alice: Store, bob: Store, shared: Medium) -> None:
    alice.acquire(KEY, epoch_floor=0, new=NEW)
    shared.run_out(ALICE)
    assert not bob.read(KEY).held
    assert bob.acquire(KEY, epoch_floor=0, new=None).epoch == 2
    assert alice.commit([commit(1)], fsync=False)[0].verdict is Verdict.FENCED
    assert not alice.renew()
    assert bob.read(KEY).held, "a lease that is taken anew holds nothing of what others took"


def test_a_late_replica_may_commit_what_nobody_took(
    alice: Store, bob: Store, shared: Medium
) -> None:
    alice.acquire(KEY, epoch_floor=0, new=NEW)
    shared.run_out(ALICE)
    assert alice.commit([commit(1)], fsync=False) == [Outcome(Verdict.DONE, 1, 1)]
    assert bob.acquire(KEY, epoch_floor=0, new=None).seq == 1


def test_a_renewal_keeps_what_is_held(alice: Store, bob: Store) -> None:
    alice.acquire(KEY, epoch_floor=0, new=NEW)
    assert alice.renew()
    assert alice.renew()
    with pytest.raises(CarouselError):
        bob.acquire(KEY, epoch_floor=0, new=None)


def test_after_a_lost_lease_sessions_can_be_held_again(
    alice: Store, bob: Store, shared: Medium
) -> None:
    shared.run_out(ALICE)
    assert not alice.renew()
    assert alice.renew()
    alice.acquire(KEY, epoch_floor=0, new=NEW)
    with pytest.raises(CarouselError) as error:
        bob.acquire(KEY, epoch_floor=0, new=None)
    assert error.value.reason == "SESSION_HELD"


def test_the_same_name_takes_over_at_once(alice: Store, bob: Store, shared: Medium) -> None:
    """The former life is fenced, and learns of it by its lease."""
    alice.acquire(KEY, epoch_floor=0, new=NEW)
    again = shared.open(ALICE)
    assert again.acquire(KEY, epoch_floor=0, new=None).epoch == 2
    assert alice.commit([commit(1)], fsync=False)[0].verdict is Verdict.FENCED
    assert not alice.renew()


def test_what_a_former_life_held_is_free_for_others_too(
    alice: Store, bob: Store, shared: Medium
) -> None:
    alice.acquire(KEY, epoch_floor=0, new=NEW)
    shared.open(ALICE)
    assert bob.acquire(KEY, epoch_floor=0, new=None).epoch == 2


def test_closing_frees_what_was_held(alice: Store, bob: Store) -> None:
    alice.acquire(KEY, epoch_floor=0, new=NEW)
    alice.close()
    assert bob.acquire(KEY, epoch_floor=0, new=None).epoch == 2


def test_a_former_life_that_closes_takes_nothing_with_it(
    alice: Store, bob: Store, shared: Medium
) -> None:
    again = shared.open(ALICE)
    again.acquire(KEY, epoch_floor=0, new=NEW)
    alice.close()
    assert bob.read(KEY).held


def test_a_dead_replicas_session_expires(alice: Store, bob: Store, shared: Medium) -> None:
    alice.acquire(KEY, epoch_floor=0, new=NEW)
    alice.commit([commit(1, used=shared.now() - 101)], fsync=False)
    assert bob.sweep(shared.now() + 200, 10) == 0
    shared.run_out(ALICE)
    with pytest.raises(CarouselError) as error:
        bob.read(KEY)
    assert error.value.reason == "SESSION_EXPIRED"
    # A sweep that found it held looks again a little later.
    assert bob.sweep(shared.now() + 300, 10) == 1
    assert alice.remove(KEY, 1, "SESSION_CLOSED") is Verdict.DONE


def test_one_lease_serves_many_sessions(alice: Store, bob: Store, shared: Medium) -> None:
    keys = [SessionKey("tenant", f"s{number}") for number in range(700)]
    for key in keys:
        alice.acquire(key, epoch_floor=0, new=NEW)
    alice.release([Holding(key, 1, shared.now()) for key in keys])
    assert not any(record.held for record in bob.list("tenant", "", 1000))


def test_memory_leases_run_by_the_clock() -> None:
    medium = InMemory(10.0)
    alice, bob = medium.open(ALICE), medium.open(BOB)
    alice.acquire(KEY, epoch_floor=0, new=NEW)
    medium.clock_s += 9.5
    with pytest.raises(CarouselError) as error:
        bob.acquire(KEY, epoch_floor=0, new=None)
    assert error.value.retry_after_s == 0.5
    assert bob.renew()
    medium.clock_s += 0.5
    assert bob.acquire(KEY, epoch_floor=0, new=None).epoch == 2
    assert not alice.renew()


def test_redis_leases_run_by_the_servers_clock(in_redis: InRedis) -> None:
    in_redis.lease_ttl_s = 0.2
    alice = in_redis.open(ALICE)
    alice.acquire(KEY, epoch_floor=0, new=NEW)
    in_redis.lease_ttl_s = 30.0
    bob = in_redis.open(BOB)
    while bob.read(KEY).held:
        pass
    assert bob.acquire(KEY, epoch_floor=0, new=None).epoch == 2
    assert not alice.renew()


def test_a_medium_rolls_back() -> None:
    medium = InMemory(10.0)
    alice = medium.open(ALICE)
    alice.acquire(KEY, epoch_floor=0, new=NEW)
    alice.commit([commit(1)], fsync=False)
    earlier = medium.medium.copy()
    alice.commit([commit(2)], fsync=False)
    alice.acquire(SessionKey("tenant", "s2"), epoch_floor=0, new=NEW)
    assert earlier.sessions[KEY].seq == 1
    medium.medium.roll_back(earlier)
    assert alice.read(KEY).seq == 1
    assert alice.statistics().sessions == 1
    assert alice.commit([commit(2)], fsync=False)[0].verdict is Verdict.DONE
    assert earlier.sessions[KEY].seq == 1, "a copy stays as it was"
