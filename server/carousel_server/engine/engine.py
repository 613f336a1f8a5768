"""The engine of one model: a thread that turns, and the tick that it turns."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from carousel_models import RecurrentModel
from carousel_server.core.errors import CarouselError
from carousel_server.core.limits import EngineLimits
from carousel_server.core.metering import EngineMetrics
from carousel_server.core.ports import (
    Ack,
    Command,
    Generate,
    Infer,
)
from carousel_server.core.quotas import Quota, Quotas
from carousel_server.core.sinks import set_tick_began
from carousel_server.core.store import StorePort
from carousel_server.core.types import Int64s, ModelView
from carousel_server.residency.directory import Directory
from carousel_server.residency.lifetimes import Lifetimes
from carousel_server.rows.delivery import Delivery
from carousel_server.rows.ledger import Ledger
from carousel_server.rows.room import Room
from carousel_server.rows.rows import Rows
from carousel_server.rows.sinks import Sinks
from carousel_server.rows.slab import Slab
from carousel_server.rows.slots import Slots
from carousel_server.rows.snapshots import Snapshots
from carousel_server.rows.table import SessionTable
from carousel_server.rows.window import Window

from .admission import Admission
from .buckets import Buckets
from .control import Control
from .describe import describe
from .generation import Generations
from .inbox import Inbox
from .intake import Intake
from .keeper import Keeper
from .prompts import encoded, tokenizer_of
from .runner import DeviceLostError, Runner
from .scheduler import Scheduler
from .sequences import Sequences
from .step_quota import StepQuota
from .stepping import Stepping

log = logging.getLogger(__name__)

# How often generations are checked for their deadline, and sessions for expiry.
_HOUSEKEEPING_S = 0.25
# How often those who wait for a slot look whether one has come free, if nothing else happens.
_ROOM_S = 0.01
# What looks at all slots takes at most this share of the time, but is never left for longer than that.
_SWEEP_SHARE, _MOST_BETWEEN_SWEEPS_S = 0.01, 2.0
# How long `stop` waits for the tick that is running; a wedged device must not hold the process.
_JOIN_S = 10.0


class Engine:
    """One model's sessions, state and heartbeat; implements `core.ports.EnginePort`.

    `start` begins a thread that ticks while there is something to do and sleeps otherwise; tests call
    `tick` themselves. Everything but `submit`, `encode_text`, `encode_prompt`, `healthy`, `pending`,
    `drain` and `stop` belongs to that thread.
    """

    def __init__(
        self,
        model: RecurrentModel,
        limits: EngineLimits,
        *,
        directory: Directory,
        metrics: Callable[[ModelView], EngineMetrics],
        store: StorePort | None = None,
        strict: bool = False,
        quotas: Quotas | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._quotas = quotas = quotas or Quotas()
        if store is not None:
            wall = store.now_unix_s
        self._loaded = model
        self._limits = limits
        self._clock = clock
        self._view = view = describe(model, limits, strict=strict)
        self._metrics = measured = metrics(view)
        self._table = table = SessionTable(limits.slots)
        window = Window(
            limits.slots, view.window_steps, view.input_row_bytes, view.output_row_bytes
        )
        slots, sinks = Slots(limits.slots), Sinks()
        self._slots = slots
        self._slab = slab = Slab(model.state_specs, limits.slots, model.device, model.kernel)
        self._ledger = ledger = Ledger(table, limits.durable_steps, limits.durable_s)
        share = quotas.limits.tenant_share
        self._inbox = Inbox(limits.inbox_commands, limits.inbox_bytes, limits.retry_after_s, share)
        delivery = Delivery(table, sinks)
        step_quota = StepQuota(table, quotas.limits.tenant_steps, limits.retry_after_s)
        admission = Admission(
            view, table, slots, window, sinks, delivery, limits.retry_after_s, step_quota
        )
        buckets = Buckets(limits.max_batch, strict=strict, invariant=model.batch_invariant)
        runner = Runner(model, slab, buckets)
        self._generations = generations = Generations(
            table, ledger, model.tokenizer, measured,
            generative=view.generative, eos=model.manifest.eos_tokens,
        )  # fmt: skip
        snapshots = Snapshots(view, table, slab, window, generations)
        self._sequences = Sequences(
            model, runner, view, limits, measured, strict=strict, share=share
        )
        room = Room(view, limits, table, slots, quotas)
        self._rows = rows = Rows(
            view, room, table, slots, slab, directory, ledger, delivery, generations
        )
        self._lifetimes = lifetimes = Lifetimes(
            view, limits, table, rows, directory, ledger, snapshots, delivery, measured, store, wall
        )
        self._keeper: Keeper | None = None
        if store is not None:
            self._keeper = Keeper(
                table, rows, window, ledger, lifetimes, snapshots, delivery, generations, measured,
                store, self._inbox.put, wall,
            )  # fmt: skip
        self._control = control = Control(
            view, limits, table, ledger, rows, lifetimes, self._keeper, admission, delivery, sinks,
            generations, self._sequences, share,
        )  # fmt: skip
        self._intake = Intake(self._inbox, admission, control)
        scheduler = Scheduler(limits.max_batch, limits.chunk_steps)
        self._stepping = Stepping(
            view, table, window, ledger, scheduler, runner, generations, delivery, control,
            measured, clock,
        )  # fmt: skip
        self._thread = threading.Thread(target=self._turn, name=f"engine-{view.name}", daemon=True)
        self._stopping = threading.Event()
        self._drain_asked = False
        self._next_housekeeping_s = 0.0
        self._next_sweep_s = 0.0
        # Why the engine no longer steps; set once.
        self._broken: CarouselError | None = None
        # Instant at which the running tick began; None between ticks. Read by `healthy`.
        self._tick_began_s: float | None = None
        # Nothing has stepped since the last housekeeping.
        self._quiet = True

    # -- any thread

    @property
    def model(self) -> ModelView:
        """The model served; constant."""
        return self._view

    @property
    def healthy(self) -> bool:
        """False once the device has failed for good, or the thread is gone or stuck in a tick."""
        return self._broken is None and not self._stuck and self._thread.is_alive()

    @property
    def _stuck(self) -> bool:
        began = self._tick_began_s
        return began is not None and self._clock() - began > self._limits.tick_timeout_s

    def submit(self, command: Command) -> None:
        """Puts a command into the inbox; see `EnginePort.submit`."""
        if self._stuck and not isinstance(command, Ack):  # nobody would say that again
            raise CarouselError("MODEL_UNHEALTHY", f"model {self._view.name!r} does not move")
        if isinstance(command, Generate) and isinstance(command.spec.prompt, str):
            tokenizer = tokenizer_of(self._loaded, self._view)
            ids, opening = tokenizer.encode_prompt(command.spec.prompt)
            prompt = ids.astype(np.int32)
            command.spec = replace(command.spec, prompt=prompt, opening_tokens=opening)
        if isinstance(command, Infer):
            self._submit_sequence(command)
        else:
            self._inbox.put(command)

    def _submit_sequence(self, call: Infer) -> None:
        """Counts the steps of a whole sequence until it is answered."""
        quotas, tenant = self._quotas, call.tenant
        steps = len(call.inputs) // self._view.input_row_bytes
        quotas.take(tenant, Quota.INFER_STEPS, "steps of whole sequences", steps)

        def answered(_reply: object) -> None:
            quotas.give_back(tenant, Quota.INFER_STEPS, steps)

        try:
            self._inbox.put(call)
        except CarouselError:
            answered(None)
            raise
        call.reply.add_done_callback(answered)

    async def encode_text(self, text: str) -> Int64s:
        """Token ids of a text; see `EnginePort.encode_text`."""
        return await encoded(tokenizer_of(self._loaded, self._view).encode, text)

    async def encode_prompt(self, text: str) -> tuple[Int64s, int]:
        """Token ids of a text to go on from; see `EnginePort.encode_prompt`."""
        return await encoded(tokenizer_of(self._loaded, self._view).encode_prompt, text)

    def pending(self) -> int:
        """About how much accepted work has not been answered, or has not reached the store."""
        undone = len(self._inbox) + int(self._table.pending.sum()) + len(self._sequences)
        return undone + self._ledger.undurable_rows()

    def drain(self) -> None:
        """Refuses new sessions and generations from now on; what was accepted goes on."""
        self._drain_asked = True

    def start(self) -> None:
        """Starts the engine's thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after the running tick; answers what is left with DRAINING. Idempotent.

        Gives up on a thread that stays in its tick for 10 s more; it is a daemon.
        """
        self._inbox.close(CarouselError("DRAINING", "the server is shutting down"))
        self._stopping.set()
        if self._thread.ident is None:
            self._answer_rest()
            return
        self._thread.join(_JOIN_S)
        if self._thread.is_alive():
            log.error("model %s: the engine is stuck and was left behind", self._view.name)

    # -- the engine's thread

    def tick(self) -> None:
        """One iteration: take what came, choose who steps, step them, hand out the results."""
        now = self._clock()
        set_tick_began(now)
        try:
            if self._keeper is not None:
                self._keeper.look_at_lease(now)
            self._intake.run(now)
            if self._control.waiting:
                self._control.look_for_room(now)
            batch = self._stepping.select(now)
            if batch is not None:
                self._quiet = False
                self._stepping.step(batch, now)
            if len(self._sequences):
                self._sequences.advance(now, idle=batch is None)
            if self._keeper is not None:
                self._keeper.keep(self._clock())
        except DeviceLostError as error:
            self._break(str(error))
        if now >= self._next_housekeeping_s:
            self._keep_house(now)

    @property
    def idle(self) -> bool:
        """True if a tick would find nothing to do."""
        return self._rest_s() > 0

    def _rest_s(self) -> float:
        """How long there is nothing to do, if no command comes; 0 if there is something now."""
        now = self._clock()
        if len(self._inbox) or len(self._sequences):
            return 0.0
        ready = self._table.ready.where(self._table.pending)
        if len(ready) and self._ledger.limited(ready, now).any():
            return 0.0
        return min(self._ledger.wait_s(now), _ROOM_S if self._control.waiting else _HOUSEKEEPING_S)

    def _turn(self) -> None:
        """The thread: ticks until stopped or broken."""
        torch.set_grad_enabled(False)
        with torch.inference_mode():
            try:
                while not self._stopping.is_set() and self._broken is None:
                    if (rest_s := self._rest_s()) > 0:
                        self._inbox.wait(rest_s)
                    self._tick_began_s = self._clock()
                    self.tick()
                    self._tick_began_s = None
            except Exception:
                log.exception("model %s: a defect in the engine", self._view.name)
                self._break("the engine has failed")
            self._answer_rest()

    def _keep_house(self, now: float) -> None:
        """What need not happen at every tick."""
        self._next_housekeeping_s = now + _HOUSEKEEPING_S
        if self._drain_asked and not self._lifetimes.draining:
            self._lifetimes.drain()
        late = CarouselError("DEADLINE_EXCEEDED", "the deadline passed while generating")
        for row in self._generations.late(now):
            self._control.end_generation(row, late)
        if now >= self._next_sweep_s:
            self._sweep(now)

    def _sweep(self, now: float) -> None:
        """What looks at all slots: the more there are, the rarer."""
        began = self._clock()
        self._lifetimes.expire(now)
        self._lifetimes.park_idle(now)
        if self._quiet and self.idle:
            self._rows.check_integrity()
        self._quiet = True
        self._metrics.gauges(
            resident=self._slots.used,
            generating=len(self._generations),
            pending_steps=int(self._table.pending.sum()),
            inbox=len(self._inbox),
            undurable_steps=self._ledger.most_ahead(),
        )
        self._metrics.tenant_sessions(self._table.tenancy.rows)
        pause_s = min((self._clock() - began) / _SWEEP_SHARE, _MOST_BETWEEN_SWEEPS_S)
        self._next_sweep_s = now + max(_HOUSEKEEPING_S, pause_s)

    def _break(self, why: str) -> None:
        """Stops stepping for good: every later command is refused as MODEL_UNHEALTHY."""
        log.error("model %s is unhealthy from now on: %s", self._view.name, why)
        self._broken = CarouselError("MODEL_UNHEALTHY", f"model {self._view.name!r} has failed")
        self._inbox.close(self._broken)

    def _answer_rest(self) -> None:
        """At the end of the thread: nobody is left waiting."""
        error = self._broken or CarouselError("DRAINING", "the server is shutting down")
        answers: list[Callable[[], object]] = [
            *(partial(command.refuse, error) for command in self._intake.rest()),
            *(partial(command.refuse, error) for command in self._control.rest()),
            *(partial(self._generations.end, row, error) for row in self._generations.rows()),
            *(
                partial(self._stepping.refuse, row, error.reason, error.message)
                for row in np.flatnonzero(self._table.pending * ~self._table.generating).tolist()
            ),
            partial(self._sequences.fail_all, error),
            partial(self._ledger.give_up, error),
            partial(self._generations.give_up, error),
        ]
        if self._broken is not None:
            # Another replica may have them at once.
            rows = np.flatnonzero(self._table.tracked).tolist()
            answers += [
                partial(self._lifetimes.let_lapse, row, error, self._clock()) for row in rows
            ]
        for answer in answers:
            try:
                answer()
            except Exception:
                log.exception("model %s: an answer at the end failed", self._view.name)
