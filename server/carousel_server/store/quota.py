"""Limits of one tenant in the store. They are checked when a session is opened, not at a commit."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from carousel_server.core.errors import CarouselError
from carousel_server.core.quotas import Quota, TenantLimits, quota_exceeded
from carousel_server.core.store import Acquire, SessionKey, Store

from .faults import RETRY_AFTER_S, ShardFault

_FRESH_S = 5.0
"""Greatest age of a measured usage. Other replicas open and end sessions too."""
_SHARE = 0.01
"""Greatest share of the time for new measurements of a tenant at its limit."""
_MOST_TENANTS = 1024


@dataclass(slots=True)
class _Known:
    """A tenant's usage when it was measured, and the sessions opened here since."""

    sessions: int
    bytes: int
    at_s: float
    took_s: float


class StoreQuota:
    """Compares each tenant's usage with its limits. Used on the store's thread only.

    Where the store's bytes are unknown, each session counts as the largest known snapshot.
    """

    def __init__(
        self,
        store: Store,
        limits: TenantLimits,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._sessions = limits.tenant_stored_sessions
        self._bytes = limits.tenant_store_bytes
        self._clock = clock
        self._known: dict[str, _Known] = {}
        # The largest known snapshot of each tenant.
        self._largest: dict[str, int] = {}

    def check(self, request: Acquire) -> None:
        """Checks that a session may be opened. One that is open already may always be activated.

        Raises:
            CarouselError: QUOTA_EXCEEDED for a new session of a tenant at its limit.
        """
        if request.new is None or not (self._sessions or self._bytes):
            return
        tenant, size = request.key.tenant, len(request.first.snapshot)
        refusal = self._refusal(tenant, size, _FRESH_S)
        if refusal is not None and not self._is_there(request.key):
            refusal = self._refusal(tenant, size, 0.0)
            if refusal is not None:
                raise refusal

    def opened(self, request: Acquire) -> None:
        """Counts an opened session."""
        known = self._known.get(request.key.tenant)
        if known is not None:
            known.sessions += 1
            known.bytes += len(request.first.snapshot)
        self.kept(request.key.tenant, len(request.first.snapshot))

    def kept(self, tenant: str, size: int) -> None:
        """Remembers the size of a tenant's snapshots."""
        if size > self._largest.get(tenant, 0):
            self._largest[tenant] = size

    def _refusal(self, tenant: str, size: int, fresh_s: float) -> CarouselError | None:
        known = self._usage(tenant, fresh_s)
        if self._sessions and known.sessions >= self._sessions:
            what, quota, limit = "sessions in the store", Quota.STORED_SESSIONS, self._sessions
        elif self._bytes and known.bytes + size > self._bytes:
            what, quota, limit = "bytes in the store", Quota.STORE_BYTES, self._bytes
        else:
            return None
        return quota_exceeded(tenant, quota, what, limit, RETRY_AFTER_S)

    def _usage(self, tenant: str, fresh_s: float) -> _Known:
        """A tenant's usage, at most `fresh_s` old unless measuring it takes too long."""
        now = self._clock()
        known = self._known.get(tenant)
        if known is not None and now - known.at_s < max(fresh_s, known.took_s / _SHARE):
            return known
        try:
            usage = self._store.usage(tenant)
        except ShardFault:
            if known is None:
                raise
            known.at_s = now  # as it was: sessions of the other shards are opened meanwhile
            return known
        size = usage.bytes
        if size < 0:
            size = usage.sessions * self._largest.get(tenant, 0)
        if len(self._known) >= _MOST_TENANTS:
            self._known.clear()
            self._largest.clear()
        known = _Known(usage.sessions, size, now, self._clock() - now)
        self._known[tenant] = known
        return known

    def _is_there(self, key: SessionKey) -> bool:
        """True if the session is open already."""
        try:
            self._store.read(key)
        except CarouselError as error:
            if error.spec.code.name == "NOT_FOUND":
                return False
            raise
        return True
