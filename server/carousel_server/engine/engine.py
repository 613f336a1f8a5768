"""The engine of one model: a thread that turns, and the tick that it turns."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from carousel_models import RecurrentModel
from carousel_server.core.errors import CarouselError
from carousel_server.core.limits import EngineLimits
from carousel_server.core.ports import Command, EngineMetrics, Generate, StepBlock
from carousel_server.core.types import Int64s, ModelView
from carousel_server.sessions import Directory, SessionTable, Window
from carousel_server.state.slab import Slab
from carousel_server.state.slots import Slots

from .admission import Admission
from .buckets import Buckets
from .control import Control
from .delivery import Delivery
from .describe import describe, prompt_ids
from .generation import Generations
from .inbox import Inbox
from .lifetimes import Lifetimes
from .runner import BatchOutputs, Runner
from .scheduler import Batch, Scheduler
from .sequences import Sequences
from .sinks import Sinks

log = logging.getLogger(__name__)

# How often sessions are checked for expiry and generations for their deadline.
_HOUSEKEEPING_S = 0.25
# Steps refused by the device one after the other, none in between going well: it is broken.
_MOST_FAILURES = 16


class Engine:
    """One model's sessions, state and heartbeat; implements `core.ports.EnginePort`.

    `start` begins a thread that ticks while there is something to do and sleeps otherwise; tests call
    `tick` themselves. Everything but `submit`, `encode_text`, `healthy`, `pending`, `drain` and `stop`
    belongs to that thread.
    """

    def __init__(
        self,
        model: RecurrentModel,
        limits: EngineLimits,
        *,
        directory: Directory,
        metrics: Callable[[ModelView], EngineMetrics],
        strict: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._loaded = model
        self._limits = limits
        self._clock = clock
        self._view = view = describe(model, limits)
        self._metrics = measured = metrics(view)
        self._table = table = SessionTable(limits.slots)
        self._window = window = Window(
            limits.slots, view.window_steps, view.input_row_bytes, view.output_row_bytes
        )
        slots, sinks = Slots(limits.slots), Sinks()
        self._slots = slots
        self._slab = slab = Slab(model.state_specs, limits.slots, model.device)
        self._inbox = Inbox(limits.inbox_commands, limits.inbox_bytes, limits.retry_after_s)
        self._delivery = delivery = Delivery(table, sinks)
        self._admission = admission = Admission(
            view, table, slots, window, sinks, delivery, limits.retry_after_s
        )
        self._scheduler = Scheduler(limits.max_batch, limits.chunk_steps)
        self._runner = Runner(model, slab, Buckets(limits.max_batch, strict=strict))
        self._generations = generations = Generations(table, model.tokenizer, measured)
        self._sequences = Sequences(model, view, limits, measured, strict=strict)
        self._lifetimes = lifetimes = Lifetimes(
            view, limits, table, slots, slab, window, directory, delivery, generations, measured
        )
        self._control = Control(
            view,
            limits,
            table,
            lifetimes,
            admission,
            delivery,
            sinks,
            generations,
            self._sequences,
        )
        self._thread = threading.Thread(target=self._turn, name=f"engine-{view.name}", daemon=True)
        self._stopping = threading.Event()
        self._drain_asked = False
        self._next_housekeeping_s = 0.0
        self._failures = 0
        # Why the engine no longer steps; set once.
        self._broken: CarouselError | None = None
        # Instant at which the running tick began; None between ticks. Read by `healthy`.
        self._tick_began_s: float | None = None

    # -- any thread

    @property
    def model(self) -> ModelView:
        """The model served; constant."""
        return self._view

    @property
    def healthy(self) -> bool:
        """False once the device has failed for good, or the thread is gone or stuck in a tick."""
        began = self._tick_began_s
        stuck = began is not None and self._clock() - began > self._limits.tick_timeout_s
        return self._broken is None and not stuck and self._thread.is_alive()

    def submit(self, command: Command) -> None:
        """Puts a command into the inbox; see `EnginePort.submit`."""
        if isinstance(command, Generate) and isinstance(command.spec.prompt, str):
            ids = self.encode_text(command.spec.prompt).astype(np.int32)
            command.spec = replace(command.spec, prompt=ids)
        self._inbox.put(command)

    def encode_text(self, text: str) -> Int64s:
        """Token ids of a text; see `EnginePort.encode_text`."""
        return prompt_ids(self._loaded, self._view, text)

    def pending(self) -> int:
        """About how much accepted work has not been answered: commands, steps, generations, calls."""
        return len(self._inbox) + int(self._table.pending.sum()) + len(self._sequences)

    def drain(self) -> None:
        """Refuses new sessions and generations from now on; what was accepted goes on."""
        self._drain_asked = True

    def start(self) -> None:
        """Starts the engine's thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after the running tick; answers what is left with DRAINING. Idempotent."""
        self._inbox.close(CarouselError("DRAINING", "the server is shutting down"))
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    # -- the engine's thread

    def tick(self) -> None:
        """One iteration: take what came, choose who steps, step them, hand out the results."""
        now = self._clock()
        self._admit(now)
        batch = self._select(now)
        if batch is not None:
            self._step(batch, now)
        if len(self._sequences):
            self._sequences.advance(now, idle=batch is None)
        if now >= self._next_housekeeping_s:
            self._keep_house(now)

    @property
    def idle(self) -> bool:
        """True if a tick would find nothing to do."""
        return not len(self._inbox) and not len(self._sequences) and not self._table.pending.any()

    def _turn(self) -> None:
        """The thread: ticks until stopped or broken."""
        torch.set_grad_enabled(False)
        with torch.inference_mode():
            try:
                while not self._stopping.is_set() and self._broken is None:
                    if self.idle:
                        self._inbox.wait(_HOUSEKEEPING_S)
                    self._tick_began_s = self._clock()
                    self.tick()
                    self._tick_began_s = None
            except Exception:
                log.exception("model %s: the engine has failed", self._view.name)
                self._break("the engine has failed")
            self._answer_rest()

    def _admit(self, now: float) -> None:
        """Runs the commands in order of arrival, neighbouring blocks of steps together."""
        blocks: list[tuple[StepBlock, float]] = []
        for command, arrived in self._inbox.drain():
            if isinstance(command, StepBlock):
                blocks.append((command, arrived))
                continue
            if blocks:
                self._admission.admit(blocks, now)
                blocks = []
            self._control.run(command, now)
        if blocks:
            self._admission.admit(blocks, now)

    def _select(self, now: float) -> Batch | None:
        """The batch of this tick, without the steps whose deadline has passed."""
        batch = self._scheduler.select(self._table.pending)
        if batch is None:
            return None
        rows = batch.rows
        deadline = self._window.deadline_s(rows, self._table.applied[rows] + 1)
        late = (deadline <= now) & ~self._table.generating[rows]
        if not late.any():
            return batch
        for row in rows[late].tolist():
            self._refuse_steps(row, "DEADLINE_EXCEEDED", "the deadline passed before the step ran")
        return Batch(rows[~late], batch.counts[~late]) if not late.all() else None

    def _step(self, batch: Batch, now: float) -> None:
        """Runs a batch; if the device refuses it, its halves, down to the row at fault."""
        fed = ~self._table.generating[batch.rows]
        started = time.monotonic()
        try:
            outputs = self._runner.run(batch, self._inputs(batch, fed), fed)
        except RuntimeError as error:
            self._split(batch, now, error)
            return
        self._failures = 0
        self._metrics.tick(
            len(batch.rows), outputs.bucket, int(batch.counts.sum()), time.monotonic() - started
        )
        self._deliver(batch, fed, outputs, now)

    def _split(self, batch: Batch, now: float, error: RuntimeError) -> None:
        if isinstance(error, torch.AcceleratorError) or self._failures >= _MOST_FAILURES:
            log.error("model %s: the device has failed: %s", self._view.name, error)
            self._break("the device has failed")
            return
        n = len(batch.rows)
        if n == 1:
            self._failures += 1
            log.warning("model %s: the device refused a step: %s", self._view.name, error)
            self._refuse_steps(int(batch.rows[0]), "STEP_FAILED", "the device refused the step")
            return
        for half in (slice(0, n // 2), slice(n // 2, n)):
            if self._broken is None:
                self._step(Batch(batch.rows[half], batch.counts[half]), now)

    def _inputs(self, batch: Batch, fed: np.ndarray) -> np.ndarray:
        """Input rows uint8[n, steps, input_row_bytes]: from the window, or from the generations."""
        firsts = self._table.applied[batch.rows] + 1
        inputs = self._window.read_inputs(batch.rows, firsts, batch.steps)
        if not fed.all():
            tokens = inputs.view("<i4")[:, :, 0]
            for i in np.flatnonzero(~fed).tolist():
                count = int(batch.counts[i])
                tokens[i, :count] = self._generations.inputs(int(batch.rows[i]), count)
        return inputs

    def _deliver(self, batch: Batch, fed: np.ndarray, outputs: BatchOutputs, now: float) -> None:
        """Moves the cursors, keeps the outputs, and hands everything out."""
        table = self._table
        firsts = table.applied[batch.rows] + 1
        table.applied[batch.rows] += batch.counts
        table.last_used_s[batch.rows] = now
        if fed.any():
            table.pending[batch.rows[fed]] -= batch.counts[fed]
            self._generations.next_token[batch.rows[fed]] = -1
            for count in np.unique(batch.counts[fed]).tolist():
                chosen = np.flatnonzero(fed & (batch.counts == count))
                self._deliver_fed(
                    batch.rows[chosen], firsts[chosen], outputs.rows[chosen, :count], now
                )
        if not fed.all():
            self._deliver_generated(batch, ~fed, outputs)

    def _deliver_fed(
        self, rows: Int64s, firsts: Int64s, outputs: np.ndarray, started: float
    ) -> None:
        self._window.write_outputs(rows, firsts, outputs)
        self._delivery.outputs(rows, firsts, outputs)
        arrived = self._window.arrived_s(rows, firsts, outputs.shape[1]).ravel()
        self._metrics.stepped(started - arrived, self._clock() - arrived)

    def _deliver_generated(
        self, batch: Batch, generated: np.ndarray, outputs: BatchOutputs
    ) -> None:
        chosen = np.flatnonzero(generated)
        rows, table = batch.rows[chosen], self._table
        table.received[rows] = table.ack[rows] = table.applied[rows]
        raw = outputs.last[torch.from_numpy(chosen)]
        for row in self._generations.advance(rows, batch.counts[chosen], raw, self._clock()):
            self._control.end_generation(row, None)

    def _refuse_steps(self, row: int, reason: str, message: str) -> None:
        """Gives up what a session wanted to run; its state stays where it is."""
        if self._table.generating[row]:
            self._control.end_generation(row, CarouselError(reason, message))
            return
        seq = self._table.drop_pending(row)
        error = CarouselError(
            reason,
            message,
            metadata={"expected": seq},
            seq=seq,
            retry_after_s=self._limits.retry_after_s,
        )
        self._delivery.failure_of(row, error)

    def _keep_house(self, now: float) -> None:
        """What need not happen at every tick."""
        self._next_housekeeping_s = now + _HOUSEKEEPING_S
        if self._drain_asked and not self._lifetimes.draining:
            self._lifetimes.drain()
        self._lifetimes.expire(now)
        late = CarouselError("DEADLINE_EXCEEDED", "the deadline passed while generating")
        for row in self._generations.late(now):
            self._control.end_generation(row, late)
        if self.idle:
            self._lifetimes.check_integrity()
        self._gauges()

    def _gauges(self) -> None:
        self._metrics.gauges(
            resident=self._slots.used,
            generating=len(self._generations),
            pending_steps=int(self._table.pending.sum()),
            inbox=len(self._inbox),
        )

    def _break(self, why: str) -> None:
        """Stops stepping for good: every later command is refused as MODEL_UNHEALTHY."""
        self._broken = CarouselError("MODEL_UNHEALTHY", f"model {self._view.name!r}: {why}")
        self._inbox.close(self._broken)

    def _answer_rest(self) -> None:
        """At the end of the thread: nobody is left waiting."""
        error = self._broken or CarouselError("DRAINING", "the server is shutting down")
        for command, _ in self._inbox.drain():
            if isinstance(command, StepBlock):
                for tag, seq in zip(command.tags, command.first_seqs, strict=True):
                    told = CarouselError(error.reason, error.message, seq=seq)
                    self._delivery.failure(command.sink, tag, told)
            else:
                self._control.refuse(command, error)
        for row in self._generations.rows():
            self._generations.end(row, error)
        for row in np.flatnonzero(self._table.pending).tolist():
            self._refuse_steps(row, error.reason, error.message)
        self._sequences.fail_all(error)
