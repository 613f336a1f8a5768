"""The ledger: what the store has yet to confirm of the sessions that it keeps.

Sans-IO: events and instants in, decisions out. The ledger says which rows are due for a snapshot and how far
each may run ahead of the store. It calls those who wait for the store's answer. One group of snapshots is in
flight at a time.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable

import numpy as np

from carousel_server.core.errors import CarouselError
from carousel_server.core.types import Float64s, Int64s

from .row_set import RowSet
from .table import SessionTable

Waiter = Callable[[CarouselError | None], None]
"""Called once: with None when the store has confirmed, else with why it cannot."""

_NOTIFY_EVERY_S = 1.0
"""Shortest time between two notifications of one outage to one session."""

_UNBOUNDED = np.iinfo(np.int64).max


class Ledger:
    """Durability of the rows of one engine. Used on the engine's thread only.

    Invariants: `durable` moves only in `confirm`, after the store's answer (R7); a row of an async session
    has at most `most_steps` steps beyond `durable`; a row that has run ahead of the store is due within
    two thirds of `most_s`; the last third is for the store's answer.
    """

    def __init__(self, table: SessionTable, most_steps: int, most_s: float) -> None:
        self._table = table
        self._most_steps = most_steps
        self._due_after_steps = max(most_steps // 2, 1)
        self._due_after_s = most_s * 2 / 3
        # Instant since when each row has something that the store lacks; infinity if nothing.
        self._dirty_since_s: Float64s = np.full(table.slots, np.inf)
        # At least the rows that have.
        self._dirty = RowSet(table.slots)
        # Rows that are due whatever their age, since someone waits for the store's answer.
        self._urgent = np.zeros(table.slots, np.bool_)
        # Rows whose snapshot is in flight.
        self._in_flight = np.zeros(table.slots, np.bool_)
        # Row → those who wait until the store has a step, in the order in which they came.
        self._waiters: defaultdict[int, list[tuple[int, Waiter]]] = defaultdict(list)
        # How many rows the store keeps; 0 makes all of this cost nothing.
        self.tracked = 0
        # True while a group is in flight; no other is sent.
        self.busy = False
        # After a fault of the store, the instant before which it is not asked again.
        self._pause_until_s = -math.inf
        # When each row's sink was last notified of an outage.
        self._notified_s: Float64s = np.full(table.slots, -np.inf)
        # Until when the rows may be used at all (R5).
        self.lease_until_s = math.inf

    # -- rows come and go

    def begin(self, row: int) -> None:
        """A session that the store keeps is on this row now, as the store has it."""
        self.tracked += 1
        self._table.durable[row] = self._table.applied[row]
        self._clean(row)

    def touch(self, row: int, now: float) -> None:
        """A fact of the row has changed that is no step, such as who has bound it. A snapshot follows."""
        if self._table.tracked[row]:
            self._soil(row, now)

    def end(self, row: int, error: CarouselError) -> None:
        """The row's session has left; those who wait get `error`."""
        if not self._table.tracked[row]:
            return
        self.tracked -= 1
        self._clean(row)
        self._wake(row, error)

    # -- what has run

    def ran(self, rows: Int64s, now: float) -> None:
        """Steps of these rows have run."""
        if self.tracked:
            rows = rows[self._table.tracked[rows]]
            self._dirty_since_s[rows] = np.minimum(self._dirty_since_s[rows], now)
            self._dirty.add(rows)
            self._urgent[rows] |= self._table.sync[rows]

    def limited(self, rows: Int64s, now: float) -> Int64s:
        """Steps that each of the rows may run now; int64[n].

        No more than are pending, and no more than its lead over the store and its lease allow.
        """
        table = self._table
        pending = table.pending[rows]
        if not self.tracked or not len(rows):
            return pending
        tracked, lead = table.tracked[rows], table.applied[rows] - table.durable[rows]
        room = np.where(tracked, np.maximum(self._most_steps - lead, 0), _UNBOUNDED)
        room[table.stopped[rows]] = 0
        if now > self.lease_until_s:
            room[tracked] = 0
        return np.minimum(pending, room)

    def is_clean(self, row: int) -> bool:
        """True if the store has all that has run."""
        return bool(np.isinf(self._dirty_since_s[row])) and not self._in_flight[row]

    def clean(self, rows: np.ndarray) -> np.ndarray:
        """The same for many; bool[n]."""
        return np.asarray(np.isinf(self._dirty_since_s[rows]) & ~self._in_flight[rows])

    def hurry(self, rows: Int64s) -> None:
        """Snapshots of these rows are due now, since other sessions wait for their room."""
        self._urgent[rows] |= np.isfinite(self._dirty_since_s[rows])

    def when_durable(self, row: int, waiter: Waiter, now: float) -> None:
        """Calls `waiter` as soon as the store has all that has run by now; at once if it has."""
        target = int(self._table.applied[row])
        if not self._table.tracked[row] or self._table.durable[row] >= target:
            waiter(None)
            return
        self._waiters[row].append((target, waiter))
        self._urgent[row] = True
        if not self._in_flight[row]:
            self._soil(row, now)

    # -- to the store and back

    def due(self, now: float, most: int, *, everything: bool = False) -> Int64s:
        """Rows whose snapshot should be sent now, the longest waiting first; none while one is out."""
        if not self.tracked or self.busy or now < self._pause_until_s or now > self.lease_until_s:
            return np.empty(0, np.int64)
        table, rows = self._table, self._dirty.where(self._dirty_since_s, np.inf)
        if not len(rows):
            return rows
        since_s = self._dirty_since_s[rows]
        old = now - since_s >= self._due_after_s
        ahead = table.applied[rows] - table.durable[rows] >= self._due_after_steps
        due = np.flatnonzero(old | ahead | self._urgent[rows] | everything)
        return rows[due[np.argsort(since_s[due], kind="stable")]][:most]

    def wait_s(self, now: float) -> float:
        """Seconds until `due` may have something; infinity if nothing is dirty or a group is out."""
        if not self.tracked or self.busy or now > self.lease_until_s:
            return math.inf
        rows = self._dirty.where(self._dirty_since_s, np.inf)
        if not len(rows):
            return math.inf
        first = float(self._dirty_since_s[rows].min())
        due_s = first if self._urgent[rows].any() else first + self._due_after_s
        return max(due_s - now, self._pause_until_s - now, 0.0)

    def sent(self, rows: Int64s) -> Float64s:
        """Snapshots of these rows are in flight, as the rows are now.

        Returns:
            float64[n], the instants since when the store has lacked what they hold.
        """
        since_s = self._dirty_since_s[rows]
        self.busy = True
        self._in_flight[rows] = True
        self._urgent[rows] = False
        self._dirty_since_s[rows] = np.inf
        return since_s

    def confirm(self, row: int, seq: int) -> None:
        """The store has the row's session up to `seq` (R7). Call `settle` when the sinks were notified."""
        table = self._table
        assert seq <= table.applied[row], "the store has steps that never ran here"
        table.durable[row] = max(int(table.durable[row]), seq)
        self._urgent[row] |= table.sync[row] or row in self._waiters

    def settle(self, row: int) -> None:
        """Calls those who waited for what was confirmed."""
        durable = int(self._table.durable[row])
        waiting = self._waiters.pop(row, [])
        if left := [(target, waiter) for target, waiter in waiting if target > durable]:
            self._waiters[row] = left
        elif not self._table.sync[row] or self.is_clean(row):
            self._urgent[row] = False
        for target, waiter in waiting:
            if target <= durable:
                waiter(None)

    def answered(self, rows: Int64s) -> None:
        """The group is no longer in flight, whether or not the store has it."""
        self.busy = False
        self._in_flight[rows] = False

    def failed(self, row: int, error: CarouselError, now: float) -> None:
        """The store could not keep the row's snapshot. It is sent again, but those who wait get `error`."""
        self._soil(row, now)
        self._urgent[row] |= self._table.sync[row]
        self._wake(row, error)

    def to_notify(self, now: float, among: Int64s | None = None) -> Int64s:
        """Rows that wait for a store at fault, and whose sinks have not been notified for a second.

        The caller notifies each now. `among` leaves out other rows, whose part of the store has no fault.
        """
        table, rows = self._table, self._dirty.where(self._dirty_since_s, np.inf)
        if among is not None:
            rows = np.intersect1d(rows, among)
        rows = rows[table.durable[rows] < table.applied[rows]]
        rows = rows[now - self._notified_s[rows] >= _NOTIFY_EVERY_S]
        self._notified_s[rows] = now
        return rows

    def pause(self, until_s: float) -> None:
        """The store is at fault. Nothing is sent to it before that instant."""
        self._pause_until_s = until_s

    # -- for people and tests

    def undurable_rows(self) -> int:
        """How many rows hold what the store has not confirmed."""
        return int((np.isfinite(self._dirty_since_s) | self._in_flight).sum())

    def most_ahead(self) -> int:
        """Most steps that any row is ahead of the store."""
        table = self._table
        return int(np.where(table.tracked, table.applied - table.durable, 0).max())

    def check_integrity(self) -> None:
        """Asserts that what the store lacks is known to be dirty or in flight."""
        table = self._table
        assert self.tracked == int(table.tracked.sum()), "the count of tracked rows is off"
        behind = table.tracked & (table.durable < table.applied)
        dirty = np.isfinite(self._dirty_since_s)
        assert all(map(self._dirty.__contains__, dirty.nonzero()[0].tolist())), "never due"
        known = dirty | self._in_flight
        assert not (behind & ~known).any(), "steps were forgotten in flight to the store"
        assert not (known & ~table.tracked).any(), "a row without a store waits for one"
        assert all(known[row] for row in self._waiters), "someone waits for ever"

    def _soil(self, row: int, now: float) -> None:
        self._dirty_since_s[row] = min(float(self._dirty_since_s[row]), now)
        self._dirty.add_row(row)

    def _clean(self, row: int) -> None:
        self._dirty_since_s[row] = np.inf
        self._urgent[row] = self._in_flight[row] = False
        self._notified_s[row] = -np.inf

    def _wake(self, row: int, error: CarouselError | None) -> None:
        for _, waiter in self._waiters.pop(row, ()):
            waiter(error)

    def fail_all(self, error: CarouselError) -> None:
        """The engine ends: those who wait get `error`."""
        for row in list(self._waiters):
            self._wake(row, error)
