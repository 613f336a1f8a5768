"""Which tenants have enough to run: their streams are read later, so that others do not pay for the reading.

A step that comes while its tenant has steps for many ticks cannot run soon. It would be read and stored, and
perhaps refused as late, with all steps behind it. In its stream it costs nothing, and the client slows down.
"""

from __future__ import annotations

import math
from collections import Counter
from functools import partial

import numpy as np

from carousel_server.core.backlogged import Backlogged
from carousel_server.core.types import Int64s
from carousel_server.rows.table import SessionTable

from .inbox import Inbox

ENOUGH_TICKS = 16
"""A tenant with steps for more ticks than this is backlogged, until it has steps for half as many."""


class Backlog:
    """Publishes the backlogged tenants of one model. Used on the engine's thread only."""

    def __init__(
        self, model: str, table: SessionTable, inbox: Inbox, published: Backlogged
    ) -> None:
        self._model = model
        self._table = table
        self._inbox = inbox
        self._published = published
        self._add = partial(published.add, model)
        self._enough = math.inf

    def measure(self, rows: Int64s, steps: Int64s, tick_steps: int) -> None:
        """Finds who is backlogged, while several tenants have sessions.

        Steps of generations do not count: they come from no stream.

        Args:
            rows: int64[n], those with steps to run.
            steps: int64[n], the steps that each could run now.
            tick_steps: how many steps a tick runs.
        """
        tenancy, was = self._table.tenancy, self._published.at(self._model)
        if not tenancy.several:
            if was or self._enough != math.inf:
                self._set(math.inf, frozenset())
            return
        enough, waiting = ENOUGH_TICKS * tick_steps, Counter(self._inbox.waiting_steps())
        counts = np.bincount(
            self._table.tenant[rows], np.where(self._table.generating[rows], 0, steps)
        )
        for number in counts.nonzero()[0].tolist():
            waiting[tenancy.names[number]] += int(counts[number])
        backlogged = (
            tenant
            for tenant, count in waiting.items()
            if count > enough or (2 * count > enough and tenant in was)
        )
        self._set(enough, frozenset(backlogged))

    def _set(self, enough: float, backlogged: frozenset[str]) -> None:
        """Publishes them. Between two ticks, what the inbox alone has may make a tenant backlogged."""
        if enough != self._enough:
            self._enough = enough
            self._inbox.report(enough, self._add)
        if backlogged != self._published.at(self._model):
            self._published.set(self._model, backlogged)
