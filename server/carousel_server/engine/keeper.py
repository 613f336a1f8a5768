"""Keeps durable sessions in the store: sends snapshots of what has run, and acts on the store's answers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import cached_property, partial
from typing import overload

import numpy as np

from carousel_server.core.errors import STORE_WAITS, CarouselError
from carousel_server.core.metering import EngineMetrics
from carousel_server.core.ports import (
    Command,
    Committed,
)
from carousel_server.core.store import (
    Commit,
    CommitGroup,
    Outcome,
    SessionKey,
    StorePort,
    Verdict,
)
from carousel_server.core.types import Durability, Float64s, Int64s, SessionRef
from carousel_server.residency.lifetimes import Lifetimes
from carousel_server.rows import snapshot
from carousel_server.rows.delivery import Delivery
from carousel_server.rows.ledger import Ledger
from carousel_server.rows.rows import Rows
from carousel_server.rows.snapshot import Snapshot
from carousel_server.rows.snapshots import Snapshots
from carousel_server.rows.table import SessionTable
from carousel_server.rows.window import Window

from .generation import Generations

log = logging.getLogger(__name__)

_MOST_IN_GROUP = 512
"""Snapshots taken between two ticks; the others follow when the store has answered."""

_PAUSE_S = 0.1
"""How long the store is left alone after a fault."""


class _Commits(Sequence[Commit]):
    """Commits of snapshots that are made into bytes when they are first looked at: by the store's thread,
    beside the next tick. They are copies, so the rows may go on meanwhile.
    """

    def __init__(self, taken: list[tuple[SessionKey, Snapshot, float]]) -> None:
        self._taken = taken

    def __len__(self) -> int:
        return len(self._taken)

    @cached_property
    def _made(self) -> list[Commit]:
        return [
            Commit(key, one.epoch, one.applied, snapshot.encode(one), last_used_unix_s)
            for key, one, last_used_unix_s in self._taken
        ]

    @overload
    def __getitem__(self, at: int) -> Commit: ...

    @overload
    def __getitem__(self, at: slice) -> Sequence[Commit]: ...

    def __getitem__(self, at: int | slice) -> Commit | Sequence[Commit]:
        return self._made[at]


class Keeper:
    """What the engine does for durability. Used on the engine's thread only.

    The ledger decides what is due; this takes the snapshots, hands them to the store's thread, and lets
    out what waited for its answer: Durable notices, outputs of sync sessions, ends of generations.
    """

    def __init__(
        self,
        table: SessionTable,
        rows: Rows,
        window: Window,
        ledger: Ledger,
        lifetimes: Lifetimes,
        snapshots: Snapshots,
        delivery: Delivery,
        generations: Generations,
        metrics: EngineMetrics,
        store: StorePort,
        submit: Callable[[Command], None],
        wall: Callable[[], float],
    ) -> None:
        self._table = table
        self._rows = rows
        self._window = window
        self._ledger = ledger
        self._lifetimes = lifetimes
        self._snapshots = snapshots
        self._delivery = delivery
        self._generations = generations
        self._metrics = metrics
        self._store = store
        self._submit = submit
        self._wall = wall
        # Leases lost as of the last look.
        self._lease_lost = store.lease_lost
        # Since when the store has lacked what is on its way to it.
        self._since_s: Float64s = np.empty(0)

    def look_at_lease(self, now: float) -> None:
        """Before anything is run: whether the sessions of the store may still be used (R5)."""
        self._ledger.lease_until_s = self._store.lease_until_s
        lost = self._store.lease_lost
        if lost == self._lease_lost:
            return
        self._lease_lost = lost
        rows = np.flatnonzero(self._table.tracked).tolist()
        log.warning("leases ran out: %d sessions are let go of", len(rows))
        for row in rows:
            self._lifetimes.let_lapse(row, _lease_lost("the server's leases ran out"), now)

    def keep(self, now: float) -> None:
        """Sends the snapshots that are due, as one group."""
        rows = self._ledger.due(now, _MOST_IN_GROUP, everything=self._lifetimes.draining)
        if not len(rows):
            return
        table, wall_s = self._table, self._wall()
        taken = [
            (self._rows.key(row), one, wall_s - (now - float(table.last_used_s[row])))
            for row, one in zip(rows.tolist(), self._snapshots.take(rows.tolist()), strict=True)
        ]
        fsync = int(Durability.SYNC_FSYNC) in table.durability[rows].tolist()
        refs = [self._rows.ref(row) for row in rows.tolist()]
        group = CommitGroup(_Commits(taken), fsync)
        group.reply.add_done_callback(partial(self._answered, refs, table.applied[rows]))
        self._since_s = self._ledger.sent(rows)
        try:
            self._store.submit(group)
        except CarouselError as error:
            group.reply.set_exception(error)

    def committed(self, command: Committed, now: float) -> None:
        """The store has answered, or failed to."""
        live = [i for i, ref in enumerate(command.refs) if self._rows.is_live(ref)]
        rows = np.asarray([command.refs[i].row for i in live], np.int64)
        self._ledger.arrived(rows)
        if isinstance(command.answer, CarouselError):
            self._ledger.pause(now + _PAUSE_S)
            for row in rows.tolist():
                self._ledger.failed(row, command.answer, now)
            self._tell_waiting(command.answer, now)
            return
        seqs = command.seqs[live]
        ours = [
            self._is_ours(row, seq, command.answer[i])
            for row, seq, i in zip(rows.tolist(), seqs.tolist(), live, strict=True)
        ]
        chosen = np.flatnonzero(ours)
        self._metrics.durable(now - self._since_s)
        self._let_out(rows[chosen], seqs[chosen], now)

    def _tell_waiting(self, fault: CarouselError, now: float) -> None:
        """Tells whoever waits for the store that it is at fault. What was accepted stays accepted."""
        rows = self._ledger.to_be_told(now)
        if not len(rows):
            return
        table = self._table
        seqs = table.durable[rows] + 1

        def notice(seq: int) -> CarouselError:
            return CarouselError(
                fault.reason,
                f"steps from {seq} on have run and wait for the store: {fault.message}",
                metadata={STORE_WAITS: seq},
                seq=seq,
                retry_after_s=fault.retry_after_s,
            )

        self._delivery.failures_of(rows, seqs, notice)

    def _is_ours(self, row: int, seq: int, outcome: Outcome) -> bool:
        """Acts on one verdict; True if the row's session is still ours."""
        epoch = int(self._table.epoch[row])
        ours = outcome.verdict is Verdict.DONE or (
            outcome.verdict is Verdict.STALE and outcome.epoch == epoch and outcome.seq >= seq
        )
        if not ours:
            why = f"a newer activation (epoch {outcome.epoch}) has the session"
            self._lifetimes.revoke(row, _lease_lost(why))
        return ours

    def _let_out(self, rows: Int64s, seqs: Int64s, now: float) -> None:
        """Moves `durable`, then tells: the notice first, then what had waited for it.

        Those who wait come last: a new binding must not get outputs that it has not asked for.
        """
        # Steps of generations have no outputs to tell; they count as acknowledged.
        before = np.maximum(self._table.durable[rows], self._table.ack[rows])
        for row, seq in zip(rows.tolist(), seqs.tolist(), strict=True):
            self._ledger.confirm(row, seq)
        self._delivery.durable(rows)
        counts = np.where(self._table.sync[rows], self._table.durable[rows] - before, 0)
        for count in np.unique(counts[counts > 0]).tolist():
            chosen = counts == count
            self._let_out_outputs(rows[chosen], before[chosen] + 1, count, now)
        for row in rows.tolist():
            self._generations.durable(row)
            self._ledger.settle(row)

    def _let_out_outputs(self, rows: Int64s, firsts: Int64s, steps: int, now: float) -> None:
        """Outputs of sync sessions that the store has confirmed now."""
        self._delivery.outputs(rows, firsts, self._window.read_outputs(rows, firsts, steps))
        arrived_s = self._window.arrived_s(rows, firsts, steps).ravel()
        fed = np.isfinite(arrived_s)
        self._metrics.stepped(np.zeros(int(fed.sum())), now - arrived_s[fed])

    def _answered(
        self, refs: Sequence[SessionRef], seqs: Int64s, reply: Future[list[Outcome]]
    ) -> None:
        """Hands the answer to the engine; on the store's thread."""
        error = reply.exception()
        if error is None:
            answer: Sequence[Outcome] | CarouselError = reply.result()
        elif isinstance(error, CarouselError):
            answer = error
        else:
            log.error("a commit failed", exc_info=error)
            answer = CarouselError("STORE_UNAVAILABLE", "the store has failed")
        try:
            self._submit(Committed(refs, seqs, answer))
        except CarouselError:
            return  # the engine has ended


def _lease_lost(why: str) -> CarouselError:
    return CarouselError("LEASE_LOST", why, retry_after_s=_PAUSE_S)
