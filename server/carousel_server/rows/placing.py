"""Which replica owns the session on each row. A wish: the store decides which one runs it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from carousel_protos.placement import hashed, placed_all, scores_at
from carousel_server.core.types import Int64s

from .table import SessionTable

_LONE = -1
"""Of a session that no other replica can own."""


class Placing:
    """Keeps `owner` and `elsewhere` of the table. Used on the engine's thread only.

    Attributes:
        addresses: of the replicas that own sessions; none while this one is alone.
    """

    def __init__(self, table: SessionTable) -> None:
        self._table = table
        self.addresses: tuple[str, ...] = ()
        self._own = _LONE
        # Where in `addresses` those are that are compared: the greater address wins a tie, so it comes first.
        self._order: Int64s = np.empty(0, np.int64)
        # Their hashes. Scores are symmetric, so one call gives those of a session at all addresses.
        self._hashes = hashed(())

    def set(self, addresses: Sequence[str], own: str, rows: Int64s) -> None:
        """Places the sessions on `rows` anew; int64[n]. `own` is "" if this replica owns none."""
        self.addresses = tuple(addresses)
        alone = not set(addresses) - {own}
        self._own = addresses.index(own) if own in addresses else _LONE
        count = 0 if alone else len(addresses)
        order = sorted(range(count), key=addresses.__getitem__, reverse=True)
        self._order = np.asarray(order, np.int64)
        self._hashes = hashed([addresses[place] for place in order])
        owners = np.full(len(rows), self._own)
        if count:
            owners = placed_all([self._table.ids[row] for row in rows.tolist()], addresses)
        self._table.owner[rows] = owners
        self._table.elsewhere[rows] = owners != self._own

    def elsewhere(self, rows: Int64s, counts: Int64s) -> int:
        """How many of these steps are of sessions that another replica owns; int64[n] each."""
        return int(counts[self._table.elsewhere[rows]].sum()) if self.addresses else 0

    @property
    def misplaced(self) -> int:
        """Sessions here that another replica owns."""
        return int(self._table.elsewhere.sum())

    def place(self, row: int) -> None:
        """Finds the owner of the session on a row."""
        owner = self._own
        if len(self._order):
            scores = scores_at(self._hashes, self._table.ids[row])
            owner = int(self._order[np.argmax(scores)])
        self._table.owner[row] = owner
        self._table.elsewhere[row] = owner != self._own
