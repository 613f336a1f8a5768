"""What a tenant may have: counted, refused by name, given back; and shares of what is bounded."""

from __future__ import annotations

import threading

import pytest

from carousel_server.core.errors import CarouselError
from carousel_server.core.quotas import Quota, Quotas, Shares, TenantLimits


def test_a_hard_limit_is_refused_by_name_and_counts_nothing() -> None:
    quotas = Quotas(TenantLimits(tenant_state_bytes=100), retry_after_s=0.5)
    quotas.take("a", Quota.STATE_BYTES, "bytes of state", 60)
    with pytest.raises(CarouselError) as refused:
        quotas.take("a", Quota.STATE_BYTES, "bytes of state", 41)
    error = refused.value
    assert error.reason == "QUOTA_EXCEEDED"
    assert error.retry_after_s == 0.5
    assert error.metadata == {"tenant": "a", "quota": "tenant_state_bytes", "limit": "100"}
    assert "'a'" in error.message
    assert "100 bytes of state (tenant_state_bytes)" in error.message
    assert quotas.held("a", Quota.STATE_BYTES) == 60
    quotas.take("a", Quota.STATE_BYTES, "bytes of state", 40)


def test_tenants_and_quotas_are_counted_apart() -> None:
    quotas = Quotas(TenantLimits(tenant_sessions=1, tenant_streams=1))
    for tenant in "ab":
        quotas.take(tenant, Quota.SESSIONS, "sessions")
        quotas.take(tenant, Quota.STREAMS, "streams")
    quotas.give_back("a", Quota.SESSIONS)
    quotas.take("a", Quota.SESSIONS, "sessions")
    assert quotas.held("b", Quota.SESSIONS) == 1


def test_zero_is_no_limit_and_is_counted_all_the_same() -> None:
    quotas = Quotas()
    quotas.take("a", Quota.INFER_STEPS, "steps", 1 << 40)
    assert quotas.held("a", Quota.INFER_STEPS) == 1 << 40


def test_what_was_given_back_is_forgotten() -> None:
    quotas = Quotas()
    for number in range(100):
        quotas.take(f"t{number}", Quota.STREAMS, "streams")
        quotas.give_back(f"t{number}", Quota.STREAMS)
    assert not quotas._held


def test_many_threads_take_no_more_than_the_limit() -> None:
    quotas, got = Quotas(TenantLimits(tenant_sessions=50)), []

    def work() -> None:
        for _ in range(100):
            try:
                quotas.take("a", Quota.SESSIONS, "sessions")
            except CarouselError:
                continue
            got.append(1)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == quotas.held("a", Quota.SESSIONS) == 50


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def refused_s(quotas: Quotas, tenant: str) -> float | None:
    """When a call may be tried again; None if it was counted."""
    error = quotas.call(tenant).exception()
    assert error is None or isinstance(error, CarouselError)
    return None if error is None else error.retry_after_s


def test_calls_have_a_burst_of_a_second_and_then_the_rate() -> None:
    clock = Clock()
    quotas = Quotas(TenantLimits(tenant_calls_per_s=4), clock=clock)
    assert [refused_s(quotas, "a") for _ in range(5)] == [None] * 4 + [0.25]
    clock.now += 0.125
    assert refused_s(quotas, "a") == 0.125
    clock.now += 0.125
    assert refused_s(quotas, "a") is None
    assert refused_s(quotas, "b") is None, "another tenant has calls of its own"
    clock.now += 1000
    assert [refused_s(quotas, "a") for _ in range(5)] == [None] * 4 + [0.25]


def test_a_rate_below_one_lets_one_call_pass_at_a_time() -> None:
    clock = Clock()
    quotas = Quotas(TenantLimits(tenant_calls_per_s=0.5), clock=clock)
    assert [refused_s(quotas, "a") for _ in range(2)] == [None, 2.0]


def test_rates_of_tenants_that_call_no_more_are_forgotten() -> None:
    clock = Clock()
    quotas = Quotas(TenantLimits(tenant_calls_per_s=4), clock=clock)
    for number in range(3000):
        clock.now += 0.01
        assert refused_s(quotas, f"t{number}") is None
    assert len(quotas._rates) <= 1025


def test_streams_come_back() -> None:
    quotas = Quotas(TenantLimits(tenant_streams=1))
    assert quotas.open_stream("a").exception() is None
    error = quotas.open_stream("a").exception()
    assert isinstance(error, CarouselError)
    assert error.metadata["quota"] == "tenant_streams"
    quotas.close_stream("a")
    assert quotas.open_stream("a").exception() is None


# -- shares


def test_a_share_leaves_something_for_whoever_comes_next() -> None:
    shares = Shares(100, 0.75)
    taken = {}
    for tenant in "abcdef":
        while shares.fits(tenant):
            shares.take(tenant)
            taken[tenant] = taken.get(tenant, 0) + 1
    assert list(taken.values()) == [75, 19, 5, 1]


def test_equal_tenants_come_to_have_equal_parts() -> None:
    """Each gives back and takes again, as its work ends and begins."""
    shares, taken = Shares(1000, 0.75), {"a": 0, "b": 0, "c": 0}
    for _ in range(60):
        for tenant in tuple(taken):
            back = taken[tenant] // 4
            shares.give_back(tenant, back)
            taken[tenant] -= back
            while shares.fits(tenant):
                shares.take(tenant)
                taken[tenant] += 1
    assert max(taken.values()) - min(taken.values()) <= 5
    assert 850 < sum(taken.values()) < 1000


def test_without_a_share_one_may_take_all() -> None:
    shares = Shares(4, 0)
    for _ in range(4):
        assert shares.fits("a")
        shares.take("a")
    assert shares.fits("a"), "the capacity is the owner's to check"


@pytest.mark.parametrize("capacity", [1, 2, 3])
def test_little_can_be_used_too(capacity: int) -> None:
    shares = Shares(capacity, 0.5)
    assert shares.fits("a")
    shares.take("a")
    assert shares.fits("b") == (capacity > 1)


def test_what_is_larger_than_a_share_passes_when_nothing_else_is_there() -> None:
    shares = Shares(100, 0.5)
    assert shares.fits("a", 90)
    shares.take("b", 10)
    assert not shares.fits("a", 90)
    assert shares.fits("a", 45)
