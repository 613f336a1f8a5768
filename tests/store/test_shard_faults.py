"""A fault of one shard fails the requests of its sessions, and nothing else."""

from __future__ import annotations

import pytest

from carousel_server.core.quotas import TenantLimits
from carousel_server.core.store import Acquire, Holding, Read, Release, SessionKey, StoreStatistics
from carousel_server.store import StoreThread
from carousel_server.store.faults import ShardFault

from .media import NEW
from .recorded import Clock, Recorded, Told, acquired, reason, submit

ILL = SessionKey("tenant", "ill")


class OneAway(Recorded):
    """The shard of the session "ill" does not answer, while `away`, and each try takes a second."""

    away = False

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        super().__init__(clock)

    def acquire(self, key: SessionKey, **named: object) -> object:  # type: ignore[override]
        self._check(key)
        return super().acquire(key, **named)  # type: ignore[arg-type]

    def read(self, key: SessionKey) -> object:  # type: ignore[override]
        self._check(key)
        return super().read(key)

    def release(self, held: object) -> None:  # type: ignore[override]
        for key, *_ in held:  # type: ignore[attr-defined]
            self._check(key)
        super().release(held)  # type: ignore[arg-type]

    def usage(self, tenant: str) -> StoreStatistics:
        if self.away:
            raise ShardFault
        return super().usage(tenant)

    def _check(self, key: SessionKey) -> None:
        if self.away and key == ILL:
            self.clock.now_s += 1.0
            raise ShardFault


@pytest.fixture
def store(clock: Clock) -> OneAway:
    return OneAway(clock)


@pytest.fixture
def thread(store: OneAway, clock: Clock, told: Told) -> StoreThread:
    thread = StoreThread(store, clock=clock, metrics=told)
    thread.run_pending()
    return thread


def test_requests_behind_it_are_answered_and_it_is_no_outage(
    thread: StoreThread, store: OneAway, caplog: pytest.LogCaptureFixture
) -> None:
    acquired(thread, "ill", "well")
    store.away = True
    ill, well = submit(thread, Read(ILL), Read(SessionKey("tenant", "well")))
    thread.run_pending()
    assert reason(ill) == "STORE_UNAVAILABLE"
    assert well.result(0).epoch == 1
    assert thread.fault == ""
    assert "unavailable" not in caplog.text


def test_unfinished_requests_of_other_shards_are_finished(
    thread: StoreThread, store: OneAway, clock: Clock
) -> None:
    keys = acquired(thread, "ill", "well")
    store.fault = ShardFault()
    replies = submit(thread, *(Release([Holding(key, 1, clock())]) for key in keys))
    thread.run_pending()
    assert [reason(reply) for reply in replies] == ["STORE_UNAVAILABLE"] * 2
    store.fault, store.away = None, True
    clock.now_s += 0.3
    thread.run_pending()
    assert [store.medium.sessions[key].owner.name for key in keys] == [store._me.name, ""]
    store.away = False
    clock.now_s += 0.3
    thread.run_pending()
    assert [store.medium.sessions[key].owner.name for key in keys] == ["", ""]


def test_quotas_use_the_last_known_usage(store: OneAway, clock: Clock) -> None:
    thread = StoreThread(store, clock=clock, limits=TenantLimits(tenant_stored_sessions=3))
    acquired(thread, "a")
    store.away = True
    clock.now_s += 6.0
    acquired(thread, "b", "c")
    (reply,) = submit(thread, Acquire(SessionKey("tenant", "d"), 0, NEW))
    thread.run_pending()
    assert reason(reply) == "QUOTA_EXCEEDED"
    (unknown,) = submit(thread, Acquire(SessionKey("other", "d"), 0, NEW))
    thread.run_pending()
    assert reason(unknown) == "STORE_UNAVAILABLE"
