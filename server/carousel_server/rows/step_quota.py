"""How many steps of a tenant may wait in one engine."""

from __future__ import annotations

import numpy as np

from carousel_server.core.errors import CarouselError
from carousel_server.core.quotas import Quota, quota_exceeded
from carousel_server.core.types import Int64s

from .table import SessionTable


class StepQuota:
    """Compares what waits, as the table has it, with `tenant_steps`. Used on the engine's thread only."""

    def __init__(self, table: SessionTable, most: int, retry_after_s: float) -> None:
        """`most` 0 is no limit."""
        self._table = table
        self._most = most
        self._retry_after_s = retry_after_s

    def __bool__(self) -> bool:
        return self._most > 0

    def fits(self, rows: Int64s, steps: int) -> np.ndarray:
        """Which rows may have `steps` more, in the order given, none twice; bool[n]."""
        table = self._table
        tenants = table.tenant[rows]
        ready = table.ready.where(table.pending)
        waiting = np.bincount(
            table.tenant[ready], table.pending[ready], minlength=int(tenants.max(initial=0)) + 1
        )
        room = ((self._most - waiting) // steps).astype(np.int64)
        order = np.argsort(tenants, kind="stable")
        starts = np.flatnonzero(np.diff(tenants[order], prepend=-1))
        place = np.empty(len(rows), np.int64)
        place[order] = np.arange(len(rows)) - np.repeat(starts, np.diff(starts, append=len(rows)))
        return np.asarray(place < room[tenants])

    def check(self, row: int, steps: int, first_seq: int = 0) -> None:
        """Raises CarouselError QUOTA_EXCEEDED if the row's tenant may not have so many steps more."""
        if self and not self.fits(np.asarray([row]), steps)[0]:
            refusal = self.refusal(row)
            refusal.seq = first_seq
            raise refusal

    def refusal(self, row: int) -> CarouselError:
        """What a tenant at its limit is told of a row's steps."""
        tenant = self._table.tenants[row]
        what = "steps waiting on this model"
        return quota_exceeded(tenant, Quota.STEPS, what, self._most, self._retry_after_s)
