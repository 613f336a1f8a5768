"""Quotas: how much of the server one tenant may use.

There are two kinds of limit. A hard limit is a number for each tenant (`TenantLimits`). `Quotas` counts what
each tenant uses of it in the whole server. A share (`Shares`) divides something bounded, such as slots or a
queue, so that no tenant can use all of it. The owner of that thing also owns its shares.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from .backlogged import Backlogged
from .errors import CarouselError


class Quota(StrEnum):
    """What is limited for each tenant, named as its setting."""

    SHARE = "tenant_share"
    SESSIONS = "tenant_sessions"
    STATE_BYTES = "tenant_state_bytes"
    STREAMS = "tenant_streams"
    STEPS = "tenant_steps"
    INFER_STEPS = "tenant_infer_steps"
    CALLS = "tenant_calls_per_s"
    STORED_SESSIONS = "tenant_stored_sessions"
    STORE_BYTES = "tenant_store_bytes"


@dataclass(frozen=True, slots=True)
class TenantLimits:
    """The limits of one tenant. 0 is no limit. Settings of the same names set them.

    Attributes:
        tenant_share: share, above 0 and at most 1, that one tenant may use of the slots, streams and
            queues that the others leave free.
        tenant_sessions: sessions resident on the device, of all models.
        tenant_state_bytes: bytes of their state.
        tenant_streams: streams of sessions, of all doors and all front ends.
        tenant_steps: steps accepted and not run, of one model.
        tenant_infer_steps: steps of whole sequences that wait or run, of all models.
        tenant_calls_per_s: calls, and blocks and bindings of streams. A burst of one second passes.
        tenant_stored_sessions: sessions in the store.
        tenant_store_bytes: bytes of their snapshots.
    """

    tenant_share: float = 0.0
    tenant_sessions: int = 0
    tenant_state_bytes: int = 0
    tenant_streams: int = 0
    tenant_steps: int = 0
    tenant_infer_steps: int = 0
    tenant_calls_per_s: float = 0.0
    tenant_stored_sessions: int = 0
    tenant_store_bytes: int = 0


NO_LIMITS = TenantLimits()

_MOST_IDLE_RATES = 1024
"""Beyond this number, rates of tenants below their limit are forgotten."""


class QuotaPort(Protocol):
    """Checks that the wire makes before a call, a stream or a message of a tenant."""

    @property
    def limits(self) -> TenantLimits:
        """The limits, which are constant."""

    @property
    def backlogged(self) -> Backlogged:
        """The tenants whose messages are read later; always the same object."""

    def call(self, tenant: str) -> Future[None]:
        """Counts a call. The future fails with CarouselError QUOTA_EXCEEDED."""

    def open_stream(self, tenant: str) -> Future[None]:
        """Counts a stream. The future fails with CarouselError QUOTA_EXCEEDED."""

    def close_stream(self, tenant: str) -> None:
        """Counts the end of a stream."""


def quota_exceeded(
    tenant: str, quota: Quota, what: str, limit: float, retry_after_s: float
) -> CarouselError:
    """QUOTA_EXCEEDED with the tenant, what is limited, and the setting."""
    return CarouselError(
        "QUOTA_EXCEEDED",
        f"tenant {tenant!r} has reached its limit of {limit:.15g} {what} ({quota})",
        metadata={"tenant": tenant, "quota": quota, "limit": f"{limit:.15g}"},
        retry_after_s=retry_after_s,
    )


class Shares:
    """How much of something bounded each tenant uses. Not thread-safe: only its owner calls it.

    A tenant may use `share` of what the others leave free, and always one unit. So the next tenant always
    finds something free, and tenants with equal demand come to equal parts.
    """

    def __init__(self, capacity: int, share: float) -> None:
        """`share` 0 lets each tenant use all of it."""
        self._capacity = capacity
        self._share = share
        self._taken: Counter[str] = Counter()
        self._total = 0

    def limit(self, tenant: str) -> int:
        """The most that a tenant may use now."""
        free = self._capacity - (self._total - self._taken[tenant])
        return math.ceil(self._share * free) if self._share else free

    def fits(self, tenant: str, amount: int = 1) -> bool:
        """True if a tenant may use so much more by its share. The owner checks the capacity itself.

        Where no tenant uses any of it, one request may use all of it at once.
        """
        if not self._share or not self._total:
            return True
        return self._taken[tenant] + amount <= self.limit(tenant)

    def take(self, tenant: str, amount: int = 1) -> None:
        """Adds to what a tenant uses."""
        self._taken[tenant] += amount
        self._total += amount

    def give_back(self, tenant: str, amount: int = 1) -> None:
        """Subtracts from what a tenant uses."""
        self._taken[tenant] -= amount
        self._total -= amount
        assert self._taken[tenant] >= 0, "a tenant returns more than it uses"
        if not self._taken[tenant]:
            del self._taken[tenant]


class Quotas:
    """Counts what each tenant uses of the whole server. Any thread may call it."""

    def __init__(
        self,
        limits: TenantLimits = NO_LIMITS,
        *,
        retry_after_s: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = limits
        self._retry_after_s = retry_after_s
        self._clock = clock
        self._lock = threading.Lock()
        self._held: Counter[tuple[str, Quota]] = Counter()
        # Tenant → calls that it may make at an instant, and that instant.
        self._rates: dict[str, tuple[float, float]] = {}
        self.backlogged = Backlogged()

    def held(self, tenant: str, quota: Quota) -> int:
        """How much a tenant uses."""
        with self._lock:
            return self._held[tenant, quota]

    def take(self, tenant: str, quota: Quota, what: str, amount: int = 1) -> None:
        """Adds to what a tenant uses. `what` is for the error's text.

        Raises:
            CarouselError: QUOTA_EXCEEDED, and nothing was added.
        """
        limit = getattr(self.limits, quota)
        with self._lock:
            fits = not limit or self._held[tenant, quota] + amount <= limit
            if fits:
                self._held[tenant, quota] += amount
        if not fits:
            raise quota_exceeded(tenant, quota, what, limit, self._retry_after_s)

    def give_back(self, tenant: str, quota: Quota, amount: int = 1) -> None:
        """Subtracts from what a tenant uses."""
        with self._lock:
            self._held[tenant, quota] -= amount
            assert self._held[tenant, quota] >= 0, "a tenant returns more than it uses"
            if not self._held[tenant, quota]:
                del self._held[tenant, quota]

    # -- QuotaPort

    def call(self, tenant: str) -> Future[None]:
        """See `QuotaPort.call`."""
        rate = self.limits.tenant_calls_per_s
        wait_s = self._wait_s(tenant, rate) if rate else 0.0
        if not wait_s:
            return _settled(None)
        return _settled(quota_exceeded(tenant, Quota.CALLS, "calls a second", rate, wait_s))

    def open_stream(self, tenant: str) -> Future[None]:
        """See `QuotaPort.open_stream`."""
        try:
            self.take(tenant, Quota.STREAMS, "streams")
        except CarouselError as error:
            return _settled(error)
        return _settled(None)

    def close_stream(self, tenant: str) -> None:
        """See `QuotaPort.close_stream`."""
        self.give_back(tenant, Quota.STREAMS)

    def _wait_s(self, tenant: str, rate: float) -> float:
        """Takes a call from a tenant's bucket. If it is empty, returns the seconds until there is one."""
        burst = max(rate, 1.0)
        with self._lock:
            now = self._clock()
            calls, then = self._rates.get(tenant, (burst, now))
            calls = min(burst, calls + (now - then) * rate)
            if calls < 1.0:
                self._rates[tenant] = calls, now
                return (1.0 - calls) / rate
            self._rates[tenant] = calls - 1.0, now
            if len(self._rates) > _MOST_IDLE_RATES:
                self._rates = {
                    name: (calls, then)
                    for name, (calls, then) in self._rates.items()
                    if calls + (now - then) * rate < burst
                }
            return 0.0


def _settled(error: CarouselError | None) -> Future[None]:
    future: Future[None] = Future()
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
    return future
