"""Keeps durable sessions in the store: sends snapshots of what has run, and acts on the store's answers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import cached_property, partial
from typing import overload

import numpy as np

from carousel_server.core.context import Context
from carousel_server.core.errors import STORE_WAITS, CarouselError
from carousel_server.core.ports import Command, Committed
from carousel_server.core.store import Commit, CommitGroup, Outcome, SessionKey, Verdict
from carousel_server.core.types import Durability, Float64s, Int64s, SessionRef
from carousel_server.residency.residency import Residency
from carousel_server.rows import snapshot
from carousel_server.rows.rows import Rows
from carousel_server.rows.snapshot import Snapshot

log = logging.getLogger(__name__)

_MOST_IN_GROUP = 512
"""Snapshots taken between two ticks; the others follow when the store has answered."""

_PAUSE_S = 0.1
_SHARD_PAUSE_S = 0.02
"""How long the store is left alone after a fault."""


class _Commits(Sequence[Commit]):
    """Commits whose snapshots are encoded when they are first read: on the store's thread, beside the next
    tick. The snapshots are copies, so the rows may go on.
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
    """Keeps sessions in the store. Used on the engine's thread only.

    The ledger decides what is due. This takes the snapshots, hands them to the store's thread, and acts on
    its answers. Where there is no store, no row is ever due.
    """

    def __init__(
        self, context: Context, rows: Rows, residency: Residency, submit: Callable[[Command], None]
    ) -> None:
        """`submit` brings a command to the engine's thread."""
        self._metrics = context.metrics
        self._store = context.store
        self._rows = rows
        self._ledger = rows.ledger
        self._residency = residency
        self._submit = submit
        # Leases lost as of the last check.
        self._lease_lost = context.store.lease_lost
        # Since when the store has lacked what is in flight to it.
        self._since_s: Float64s = np.empty(0)

    def check_lease(self, now: float) -> None:
        """Before anything is run: whether the sessions of the store may still be used (R5)."""
        self._ledger.lease_until_s = self._store.lease_until_s
        lost = self._store.lease_lost
        if lost == self._lease_lost:
            return
        self._lease_lost = lost
        rows = np.flatnonzero(self._rows.table.tracked).tolist()
        if rows:
            log.warning("leases ran out: %d sessions are released", len(rows))
        for row in rows:
            self._residency.let_lapse(row, _lease_lost("the server's leases ran out"), now)

    def commit_due(self, now: float) -> None:
        """Sends the snapshots that are due, as one group."""
        rows = self._ledger.due(now, _MOST_IN_GROUP, everything=self._rows.draining)
        if not len(rows):
            return
        table, wall_s = self._rows.table, self._store.now_unix_s()
        taken = [
            (self._rows.key(row), one, wall_s - (now - float(table.last_used_s[row])))
            for row, one in zip(
                rows.tolist(), self._rows.snapshots.take(rows.tolist()), strict=True
            )
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
        self._ledger.answered(rows)
        if isinstance(command.answer, CarouselError):
            self._ledger.pause(now + _PAUSE_S)
            for row in rows.tolist():
                self._ledger.failed(row, command.answer, now)
            self._report_fault(command.answer, now)
            return
        seqs = command.seqs[live]
        unanswered = np.array(
            [command.answer[i].verdict is Verdict.UNANSWERED for i in live], np.bool_
        )
        if unanswered.any():
            self._shard_failed(rows[unanswered], now)
            chosen = np.flatnonzero(~unanswered)
            rows, seqs, live = rows[chosen], seqs[chosen], [live[i] for i in chosen.tolist()]
        ours = [
            self._is_ours(row, seq, command.answer[i])
            for row, seq, i in zip(rows.tolist(), seqs.tolist(), live, strict=True)
        ]
        chosen = np.flatnonzero(ours)
        self._metrics.durable(now - self._since_s)
        self._rows.confirm(rows[chosen], seqs[chosen], now)

    def _shard_failed(self, rows: Int64s, now: float) -> None:
        """A part of the store has not answered for some rows. The others go on."""
        error = CarouselError(
            "STORE_UNAVAILABLE", "a shard of the store does not answer", retry_after_s=_PAUSE_S
        )
        self._ledger.pause(now + _SHARD_PAUSE_S)
        for row in rows.tolist():
            self._ledger.failed(row, error, now)
        self._report_fault(error, now, among=rows)

    def _report_fault(self, fault: CarouselError, now: float, among: Int64s | None = None) -> None:
        """Tells clients whose steps wait for the store of its fault. What was accepted stays accepted."""
        rows = self._ledger.to_notify(now, among)
        if not len(rows):
            return

        def notice(seq: int) -> CarouselError:
            return CarouselError(
                fault.reason,
                f"steps from {seq} on have run and wait for the store: {fault.message}",
                metadata={STORE_WAITS: seq},
                seq=seq,
                retry_after_s=fault.retry_after_s,
            )

        self._rows.listeners.failures(rows, self._rows.table.durable[rows] + 1, notice)

    def _is_ours(self, row: int, seq: int, outcome: Outcome) -> bool:
        """Acts on one verdict; True if the row's session is still ours."""
        epoch = int(self._rows.table.epoch[row])
        ours = outcome.verdict is Verdict.DONE or (
            outcome.verdict is Verdict.STALE and outcome.epoch == epoch and outcome.seq >= seq
        )
        if not ours:
            why = f"a newer activation (epoch {outcome.epoch}) has the session"
            self._residency.revoke(row, _lease_lost(why))
        return ours

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
