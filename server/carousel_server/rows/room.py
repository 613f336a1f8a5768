"""Slots for tenants: who may have another row, and who gives one up for it."""

from __future__ import annotations

from collections.abc import Callable

from carousel_server.core.errors import CarouselError
from carousel_server.core.limits import EngineLimits
from carousel_server.core.quotas import Quota, Quotas, Shares, quota_exceeded
from carousel_server.core.types import ModelView, SessionRef

from .slots import Slots
from .table import SessionTable

MakeRoom = Callable[[str], bool]
"""Frees a row of a tenant's, or of anybody's if that is "". Returns False if none can be freed."""


class Room:
    """Gives slots out and takes them back, within each tenant's quotas. Used on the engine's thread only.

    A tenant at a quota, of whose sessions the store keeps an idle one, parks that one.
    """

    def __init__(
        self,
        model: ModelView,
        limits: EngineLimits,
        table: SessionTable,
        slots: Slots,
        quotas: Quotas,
    ) -> None:
        self._model = model
        self._limits = limits
        self._table = table
        self._slots = slots
        self._quotas = quotas
        self._shares = Shares(limits.slots, quotas.limits.tenant_share)
        self._costs = (
            (Quota.SESSIONS, "resident sessions", 1),
            (Quota.STATE_BYTES, "bytes of state", model.state_bytes),
        )

    def allocate(self, tenant: str, make_room: MakeRoom) -> SessionRef:
        """A free row for a tenant.

        Raises:
            CarouselError: TOO_MANY_SESSIONS, QUOTA_EXCEEDED or SLAB_FULL.
        """
        self._check_share(tenant, make_room)
        self._take(tenant, make_room)
        ref = self._slots.allocate()
        if ref is None and make_room(""):
            ref = self._slots.allocate()
        if ref is None:
            self._give_back(tenant, len(self._costs))
            raise self._full()
        self._shares.take(tenant)
        return ref

    def free(self, ref: SessionRef, tenant: str) -> None:
        """Takes a row back."""
        self._slots.free(ref)
        self._shares.give_back(tenant)
        self._give_back(tenant, len(self._costs))

    def _check_share(self, tenant: str, make_room: MakeRoom) -> None:
        limits = self._limits
        if self._table.tenancy.rows.get(tenant, 0) >= limits.sessions_per_tenant:
            raise CarouselError(
                "TOO_MANY_SESSIONS",
                f"{limits.sessions_per_tenant} sessions are open (sessions_per_tenant)",
                retry_after_s=limits.retry_after_s,
            )
        if not self._shares.fits(tenant) and not make_room(tenant):
            if self._slots.used == limits.slots:
                raise self._full()
            what = f"slots of model {self._model.name!r}"
            share = self._shares.limit(tenant)
            raise quota_exceeded(tenant, Quota.SHARE, what, share, limits.retry_after_s)

    def _full(self) -> CarouselError:
        return CarouselError(
            "SLAB_FULL",
            f"all {self._limits.slots} slots of model {self._model.name!r} are taken",
            metadata={"slots": self._limits.slots},
            retry_after_s=self._limits.retry_after_s,
        )

    def _take(self, tenant: str, make_room: MakeRoom) -> None:
        for number, (quota, what, amount) in enumerate(self._costs):
            try:
                self._quotas.take(tenant, quota, what, amount)
            except CarouselError:
                try:
                    if not make_room(tenant):
                        raise
                    self._quotas.take(tenant, quota, what, amount)
                except CarouselError:
                    self._give_back(tenant, number)
                    raise

    def _give_back(self, tenant: str, count: int) -> None:
        """Gives back the first `count` of what a session costs."""
        for quota, _, amount in self._costs[:count]:
            self._quotas.give_back(tenant, quota, amount)
