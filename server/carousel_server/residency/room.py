"""Room on the rows: who may have another one, and who gives one up for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from carousel_server.core.context import Context
from carousel_server.core.errors import CarouselError
from carousel_server.core.quotas import Quota, Shares, quota_exceeded
from carousel_server.core.types import Int64s
from carousel_server.rows.rows import Rows

STAY_S = 0.1
"""Minimum time on a row of a session that came from the store, unless it steps. Without it, sessions that
need room would evict each other before their first steps arrive."""

MakeRoom = Callable[[str], bool]
"""Frees a row of a tenant, or of any if that is "". Returns False if none can be freed."""


class Room:
    """Counts the rows of each tenant, and chooses what is parked. Used on the engine's thread only.

    A tenant at a quota, of whose sessions the store keeps an idle one, parks that one.
    """

    def __init__(self, context: Context, rows: Rows, park: Callable[[int, float], None]) -> None:
        """`park` gives up the row of a session that the store has all of."""
        model = context.model
        self._model = model
        self._limits = context.limits
        self._rows = rows
        self._park = park
        self._quotas = context.quotas
        self._shares = Shares(context.limits.slots, context.share)
        self._costs = (
            (Quota.SESSIONS, "resident sessions", 1),
            (Quota.STATE_BYTES, "bytes of state", model.state_bytes),
        )

    def claim(self, tenant: str, now: float, *, newcomers: bool = True) -> None:
        """Counts one more row for a tenant, and parks a session if none is free.

        With `newcomers`, that may be one that has just come; see `STAY_S`.

        Raises:
            CarouselError: TOO_MANY_SESSIONS, QUOTA_EXCEEDED or SLAB_FULL; nothing is counted.
        """

        def make_room(tenant: str) -> bool:
            return self._make_room(tenant, now, newcomers=newcomers)

        self._check_share(tenant, make_room)
        counted = 0
        try:
            for quota, what, amount in self._costs:
                self._count(tenant, quota, what, amount, make_room)
                counted += 1
            if self._is_full and not make_room(""):
                raise self._full()
        except CarouselError:
            self._give_back(tenant, counted)
            raise
        self._shares.take(tenant)

    def free(self, tenant: str) -> None:
        """Counts one row less."""
        self._shares.give_back(tenant)
        self._give_back(tenant, len(self._costs))

    # -- what can be parked

    def parkable(self) -> np.ndarray:
        """Idle rows of the store's sessions that it has all of; bool[slots]."""
        ledger = self._rows.ledger
        return np.asarray(self._idle() & ledger.clean(np.arange(self._limits.slots)))

    @property
    def can_come_free(self) -> bool:
        """True if a row can come free although no session is closed."""
        return self._rows.ledger.tracked > 0 and not self._rows.draining

    def hurry(self, waiting: Mapping[str, int]) -> None:
        """Brings so many sessions to the store that they can be parked: those idle for longest.

        `waiting` is how many sessions of each tenant want a row. A tenant at a quota needs one of its own.
        """
        table, idle = self._rows.table, np.flatnonzero(self._idle())
        idle = idle[np.argsort(table.last_used_s[idle], kind="stable")]
        hurried = [idle[: sum(waiting.values())]]
        if table.tenancy.several:
            tenants = table.tenant[idle]
            for tenant, count in waiting.items():
                hurried.append(idle[tenants == table.tenancy.number(tenant)][:count])
        self._rows.ledger.hurry(np.unique(np.concatenate(hurried)))

    def _idle(self) -> np.ndarray:
        """Rows of the store's sessions that have nothing to run; bool[slots]."""
        table = self._rows.table
        if self._rows.draining:
            return np.zeros(table.slots, np.bool_)
        return np.asarray(table.tracked & (table.pending == 0) & ~table.generating)

    def _make_room(self, tenant: str, now: float, *, newcomers: bool) -> bool:
        """Parks the session that was idle for longest, if there is one that can be.

        It is one of `tenant`'s or, if that is "", of the tenant that has most of those with such a session.
        """
        table = self._rows.table
        if not self._rows.ledger.tracked:
            return False
        parkable = self.parkable()
        if tenant:
            parkable &= table.tenant == table.tenancy.number(tenant)
        if not newcomers:
            parkable &= (table.applied > table.begun_applied) | (now - table.begun_s >= STAY_S)
        rows = np.flatnonzero(parkable)
        if not len(rows):
            return False
        if not tenant and table.tenancy.several:
            rows = self._of_the_greatest(rows)
        self._park(int(rows[np.argmin(table.last_used_s[rows])]), now)
        return True

    def _of_the_greatest(self, rows: Int64s) -> Int64s:
        """Those of the tenant that has most rows in all."""
        tenant = self._rows.table.tenant
        resident = np.bincount(tenant[self._rows.slots.taken])
        return np.asarray(rows[tenant[rows] == tenant[rows][np.argmax(resident[tenant[rows]])]])

    # -- what a tenant may have

    def _check_share(self, tenant: str, make_room: MakeRoom) -> None:
        limits = self._limits
        if self._rows.table.tenancy.rows.get(tenant, 0) >= limits.sessions_per_tenant:
            raise CarouselError(
                "TOO_MANY_SESSIONS",
                f"{limits.sessions_per_tenant} sessions are open (sessions_per_tenant)",
                retry_after_s=limits.retry_after_s,
            )
        if not self._shares.fits(tenant) and not make_room(tenant):
            if self._is_full:
                raise self._full()
            what = f"slots of model {self._model.name!r}"
            share = self._shares.limit(tenant)
            raise quota_exceeded(tenant, Quota.SHARE, what, share, limits.retry_after_s)

    @property
    def _is_full(self) -> bool:
        return self._rows.slots.used == self._limits.slots

    def _full(self) -> CarouselError:
        return CarouselError(
            "SLAB_FULL",
            f"all {self._limits.slots} slots of model {self._model.name!r} are taken",
            metadata={"slots": self._limits.slots},
            retry_after_s=self._limits.retry_after_s,
        )

    def _count(
        self, tenant: str, quota: Quota, what: str, amount: int, make_room: MakeRoom
    ) -> None:
        try:
            self._quotas.take(tenant, quota, what, amount)
        except CarouselError:
            if not make_room(tenant):
                raise
            self._quotas.take(tenant, quota, what, amount)

    def _give_back(self, tenant: str, count: int) -> None:
        """Gives back the first `count` of what a session costs."""
        for quota, _, amount in self._costs[:count]:
            self._quotas.give_back(tenant, quota, amount)
