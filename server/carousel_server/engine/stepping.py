"""Steps batches: chooses the rows, runs them, moves their cursors, hands out the results."""

from __future__ import annotations

import logging
from functools import partial

import numpy as np
import torch

from carousel_server.core.context import Context
from carousel_server.core.errors import CarouselError
from carousel_server.core.types import Int64s
from carousel_server.rows.rows import Rows

from .backlog import Backlog
from .finite import FiniteSteps
from .generation import Generations
from .runner import BatchOutputs, Runner
from .scheduler import Batch, Scheduler
from .tick_budget import LEAST_ROWS, Sharing, TickBudget

log = logging.getLogger(__name__)


class Stepping:
    """What a tick does with sessions. Used on the engine's thread only, in inference mode."""

    def __init__(
        self,
        context: Context,
        rows: Rows,
        runner: Runner,
        generations: Generations,
        sharing: Sharing,
        backlog: Backlog,
    ) -> None:
        limits = context.limits
        self._view = context.model
        self._metrics = context.metrics
        self._clock = context.clock
        self._rows = rows
        self._table = rows.table
        self._window = rows.window
        self._ledger = rows.ledger
        self._listeners = rows.listeners
        self._scheduler = Scheduler(limits.max_batch, limits.chunk_steps)
        self._sharing = sharing
        self._backlog = backlog
        # A batch below the smallest size that batches are padded to costs as much.
        least = runner.buckets.of(min(LEAST_ROWS, limits.max_batch))
        self._budget = TickBudget(limits.shared_tick_s, least, limits.max_batch)
        self._runner = runner
        self._generations = generations

    def select(self, now: float) -> Batch | None:
        """The batch of this tick: up to the first step of each row whose deadline has passed.

        What is late is refused before the choice, so that it takes no place in the batch. A step that starts
        from the initial state is the first one of its row.
        """
        table = self._table
        rows = table.ready.where(table.pending)
        if (late := self._late(rows, 1, now)) is not None:
            self._refuse_late(rows[late[:, 0]])
            rows = rows[~late[:, 0]]
        tenants = table.tenant[rows] if table.tenancy.several else None
        self._sharing.worked(self._names(rows, tenants), now)
        most_steps = self._budget.steps if self._sharing.shared(now) else None
        steps = self._ledger.limited(rows, now)
        self._backlog.measure(rows, steps, most_steps or self._budget.most)
        if not len(rows):
            return None
        batch = self._scheduler.select(rows, steps, table.sink[rows], tenants, most_steps)
        if batch is None or batch.steps == 1:
            return batch
        late = self._late(batch.rows, batch.steps, now)
        resets = self._window.resets_in(batch.rows, table.applied[batch.rows] + 1, batch.steps)
        if late is None and resets is None:
            return batch
        ends = np.zeros((len(batch.rows), batch.steps), np.bool_) if late is None else late
        if resets is not None:
            ends[:, 1:] |= resets[:, 1:] & ~table.generating[batch.rows, None]
        ends &= np.arange(batch.steps) < batch.counts[:, None]
        if not ends.any():
            return batch
        return Batch.of(batch.rows, np.where(ends.any(axis=1), ends.argmax(axis=1), batch.counts))

    def step(self, batch: Batch, now: float) -> None:
        """Runs a batch; if it fails, its halves, down to the step at fault.

        Raises:
            DeviceLostError: the device is at fault, not a step.
        """
        fed = ~self._table.generating[batch.rows]
        started = self._clock()
        try:
            drawing = partial(self._drawing, batch, fed)
            firsts = self._table.applied[batch.rows] + 1
            at = self._window.at(batch.rows, firsts, batch.steps)
            inputs, reads = self._inputs(batch, fed, at), self._rows.first_reads(batch.rows)
            outputs = self._runner.run(batch, inputs, fed, drawing, reads)
        except Exception as error:  # noqa: BLE001 - logged where it is judged
            # Whatever a model raises, out of memory or a defect of a custom module, is its batch's alone.
            self._split(batch, now, error)
            return
        seconds, finite = self._clock() - started, outputs.finite
        whole = None if finite is None else finite.whole
        done = batch if whole is None else Batch(batch.rows[whole], batch.counts[whole])
        self._count(batch, done, outputs.bucket, seconds)
        if self._sharing.shared(now):
            self._budget.ran(batch.total, seconds)
        if finite is None or whole is None:
            self._deliver(batch, fed, at, outputs, now)
            return
        if len(done.rows):
            steps = done.steps
            self._deliver(done, fed[whole], at[whole, :steps], outputs.of(whole, steps), now)
        self._refuse_not_finite(batch, finite, now)

    def refuse(self, row: int, reason: str, message: str) -> None:
        """Refuses what a session has to run; its state does not change."""
        if self._table.generating[row]:
            self._generations.end(row, CarouselError(reason, message))
            return
        seq = int(self._rows.drop_pending(row))
        error = CarouselError(reason, message, metadata={"expected": seq}, seq=seq)
        self._listeners.failure(row, error)

    def _names(self, rows: Int64s, tenants: Int64s | None) -> list[str]:
        """The tenants of at least one row."""
        if tenants is None:
            return [self._table.tenants[int(rows[0])]] if len(rows) else []
        names = self._table.tenancy.names
        return [names[number] for number in np.flatnonzero(np.bincount(tenants)).tolist()]

    def _count(self, batch: Batch, done: Batch, bucket: int, seconds: float) -> None:
        """Tells the metrics of a batch. The steps of `done` count."""
        table, steps = self._table, done.total
        if table.tenancy.several:
            counts = np.bincount(table.tenant[done.rows], done.counts)
            names = table.tenancy.names
            by_tenant = {names[i]: int(counts[i]) for i in counts.nonzero()[0].tolist()}
        else:
            by_tenant = {table.tenants[int(batch.rows[0])]: steps}
        self._metrics.tick(len(batch.rows), bucket, by_tenant, seconds)
        elsewhere = self._rows.placing.elsewhere(done.rows, done.counts)
        self._metrics.placed(steps - elsewhere, elsewhere)

    def _refuse_late(self, rows: Int64s) -> None:
        """Refuses what these rows have to run, because the next step of each is late."""

        def refusal(seq: int) -> CarouselError:
            message = "the deadline passed before the step ran"
            return CarouselError("DEADLINE_EXCEEDED", message, metadata={"expected": seq}, seq=seq)

        self._listeners.failures(rows, self._rows.drop_pending(rows), refusal)

    def _late(self, rows: Int64s, steps: int, now: float) -> np.ndarray | None:
        """Which of the next steps of each row may not begin any more; bool[n, steps], None if all may."""
        if not self._window.has_deadlines:
            return None
        late = self._window.late(rows, self._table.applied[rows] + 1, steps, now)
        if late is not None:
            late &= ~self._table.generating[rows, None]
        return late

    def _split(self, batch: Batch, now: float, error: Exception) -> None:
        n = len(batch.rows)
        if n > 1:
            for half in (slice(0, n // 2), slice(n // 2, n)):
                self.step(Batch(batch.rows[half], batch.counts[half]), now)
        elif batch.steps > 1:
            # The first steps of the chunk may be fine; the others come in the next ticks.
            self.step(Batch(batch.rows, np.ones_like(batch.counts)), now)
        else:
            self._runner.check_device()
            log.warning("model %s: a step failed", self._view.name, exc_info=error)
            self.refuse(int(batch.rows[0]), "STEP_FAILED", "the device refused the step")

    def _inputs(self, batch: Batch, fed: np.ndarray, at: Int64s) -> np.ndarray:
        """Input rows uint8[n, steps, input_row_bytes]; zero behind a row's count.

        They come from the window or, for rows that are not `fed`, from the generations.
        """
        inputs = self._window.inputs[at]
        if batch.counts[-1] < batch.steps:
            inputs[np.arange(batch.steps) >= batch.counts[:, None]] = 0
        if np.count_nonzero(fed) < len(fed):
            tokens = inputs.view("<i4")[:, :, 0]
            for i in np.flatnonzero(~fed).tolist():
                count = int(batch.counts[i])
                tokens[i, :count] = self._generations.inputs(int(batch.rows[i]), count)
        return inputs

    def _drawing(self, batch: Batch, fed: np.ndarray) -> np.ndarray:
        """Which rows draw a token after the batch: generations that have fed all they have; bool[n]."""
        return np.asarray(~fed & (self._table.pending[batch.rows] == batch.counts))

    def _deliver(
        self, batch: Batch, fed: np.ndarray, at: Int64s, outputs: BatchOutputs, now: float
    ) -> None:
        """Moves the cursors, keeps the outputs, and hands everything out."""
        firsts, counts = self._table.applied[batch.rows] + 1, batch.counts
        self._rows.ran(batch.rows, counts, now)
        all_fed = np.count_nonzero(fed) == len(fed)
        if all_fed and counts[0] == counts[-1]:  # nearly always
            self._rows.deliver(batch.rows, firsts, at, outputs.rows, now)
            return
        for count in np.unique(counts[fed]).tolist():
            chosen = np.flatnonzero(fed & (counts == count))
            rows, entries = outputs.rows[chosen, :count], at[chosen, :count]
            self._rows.deliver(batch.rows[chosen], firsts[chosen], entries, rows, now)
        if not all_fed:
            self._deliver_generated(batch, np.flatnonzero(~fed), outputs)

    def _refuse_not_finite(self, batch: Batch, finite: FiniteSteps, now: float) -> None:
        """Refuses the steps that are not finite. Those before such a one run again, without it.

        It is then the next of its session, so a later tick refuses it.
        """
        assert finite.good is not None
        begun = np.flatnonzero((finite.good > 0) & (finite.good < batch.counts))
        again = Batch.of(batch.rows[begun], finite.good[begun])
        if again is not None:
            self.step(again, now)
        for place, fault in finite.faults.items():
            row = int(batch.rows[place])
            seq = int(self._table.applied[row]) + 1
            self._metrics.not_finite()
            message = f"step {seq} does not count, because {fault} after it"
            self.refuse(row, "STEP_NOT_FINITE", message)

    def _deliver_generated(self, batch: Batch, chosen: Int64s, outputs: BatchOutputs) -> None:
        rows = batch.rows[chosen]
        self._rows.generated(rows)
        try:
            raw = outputs.last[torch.from_numpy(chosen)]
            ended = self._generations.advance(rows, batch.counts[chosen], raw, self._clock())
        except Exception:
            log.exception("model %s: drawing tokens failed", self._view.name)
            self._runner.check_device()
            for row in rows.tolist():
                self._generations.forget(row)
                self.refuse(row, "INTERNAL", "the server failed to draw a token")
            return
        for row in ended:
            self._generations.end(row, None)
