"""The engine of one model: a thread that turns, and the tick that it turns."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch

from carousel_models import RecurrentModel, devices
from carousel_server.core.context import Context, NoStore
from carousel_server.core.errors import CarouselError
from carousel_server.core.limits import EngineLimits
from carousel_server.core.metering import EngineMetrics
from carousel_server.core.ports import Ack, Command, Committed, Generate, Infer, StepBlock
from carousel_server.core.quotas import Quota, Quotas
from carousel_server.core.sinks import current_tick
from carousel_server.core.store import StorePort
from carousel_server.core.types import Int64s, ModelView
from carousel_server.residency.directory import Directory
from carousel_server.residency.residency import Residency
from carousel_server.rows.rows import Rows
from carousel_server.rows.slab import Slab

from .backlog import Backlog
from .control import Control, Verbs
from .describe import describe
from .generation import Generations
from .hand_overs import HandOvers
from .inbox import Inbox
from .keeper import Keeper
from .requests import encoded, tokenizer_of
from .runner import Buckets, DeviceLostError, Runner
from .sequences import Sequences
from .stepping import Stepping
from .tick_budget import Sharing

log = logging.getLogger(__name__)

# How often generations are checked for their deadline, and sessions for expiry.
_HOUSEKEEPING_S = 0.25
# How often sessions that wait for a row, or to leave theirs, are tried again if nothing else happens.
_ROOM_S = 0.01
# Sweeps over all slots take at most this share of the time, with at most this pause between them.
_SWEEP_SHARE, _MOST_BETWEEN_SWEEPS_S = 0.01, 2.0
# How long `stop` waits for the tick that is running; a wedged device must not hold the process.
_JOIN_S = 10.0


@dataclass(frozen=True, slots=True)
class Environment:
    """What the engines of a server share.

    Attributes:
        directory: which session is where.
        metrics: makes the metrics of a model.
        store: keeps sessions; without one they die with the process.
        quotas: the limits of each tenant.
        strict: a row's bits may not depend on the other rows of its batch.
        clock: the monotonic clock, in seconds.
    """

    directory: Directory
    metrics: Callable[[ModelView], EngineMetrics]
    store: StorePort | None = None
    quotas: Quotas = field(default_factory=Quotas)
    strict: bool = False
    clock: Callable[[], float] = time.monotonic

    def context(self, model: ModelView, limits: EngineLimits) -> Context:
        """What the parts of one engine share."""
        return Context(
            model=model,
            limits=limits,
            quotas=self.quotas,
            metrics=self.metrics(model),
            store=self.store or NoStore(),
            clock=self.clock,
            strict=self.strict,
        )


class Engine:
    """One model's sessions, state and heartbeat; implements `core.ports.EnginePort`.

    `start` begins a thread that ticks while there is something to do and sleeps otherwise; tests call
    `tick` themselves. Everything but `submit`, `encode_text`, `encode_prompt`, `healthy`, `pending`,
    `drain` and `stop` belongs to that thread.
    """

    def __init__(
        self, model: RecurrentModel, limits: EngineLimits, environment: Environment
    ) -> None:
        view = describe(model, limits, strict=environment.strict)
        self._loaded = model
        self._context = context = environment.context(view, limits)
        initials = tuple(model.initial.values())
        slab = Slab(model.state_specs, limits.slots, model.device, model.kernel, initials)
        buckets = Buckets(limits.max_batch, strict=context.strict, invariant=model.batch_invariant)
        runner = Runner(model, slab, buckets)
        self._rows = rows = Rows(context, slab)
        self._inbox = Inbox(
            limits.inbox_commands,
            limits.inbox_bytes,
            limits.retry_after_s,
            rows.table,
            context.share,
        )
        self._residency = residency = Residency(context, rows, environment.directory)
        self._keeper = Keeper(context, rows, residency, self._inbox.put)
        self._generations = Generations(context, rows, residency, model)
        sharing = Sharing()
        backlog = Backlog(view.name, rows.table, self._inbox, context.quotas.backlogged)
        self._sequences = Sequences(context, model, runner, sharing)
        self._stepping = Stepping(context, rows, runner, self._generations, sharing, backlog)
        self._hand_overs = HandOvers(context, rows, residency, self._generations, self._inbox.put)
        verbs: Verbs = {
            Committed: self._keeper.committed,
            Infer: lambda call, _: self._sequences.submit(call),
        }
        self._control = Control(
            context, rows, residency, self._generations, self._hand_overs, verbs
        )
        self._thread = threading.Thread(target=self._turn, name=f"engine-{view.name}", daemon=True)
        self._stopping = threading.Event()
        self._drain_asked = False
        self._next_housekeeping_s = self._next_sweep_s = 0.0
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
        return self._context.model

    @property
    def healthy(self) -> bool:
        """False once the device has failed for good, or the thread is gone or stuck in a tick."""
        return self._broken is None and not self._stuck and self._thread.is_alive()

    @property
    def _stuck(self) -> bool:
        began = self._tick_began_s
        return (
            began is not None
            and self._context.clock() - began > self._context.limits.tick_timeout_s
        )

    def submit(self, command: Command) -> None:
        """Puts a command into the inbox; see `EnginePort.submit`."""
        if self._stuck and not isinstance(command, Ack):  # it is not sent again
            raise self._does_not_move()
        if isinstance(command, Generate) and isinstance(command.spec.prompt, str):
            tokenizer = tokenizer_of(self._loaded, self._context.model)
            ids, opening = tokenizer.encode_prompt(command.spec.prompt)
            prompt = ids.astype(np.int32)
            command.spec = replace(command.spec, prompt=prompt, opening_tokens=opening)
        if isinstance(command, Infer):
            self._submit_sequence(command)
        else:
            self._inbox.put(command)

    def submit_steps(self, blocks: Sequence[StepBlock]) -> None:
        """Puts blocks into the inbox together; see `EnginePort.submit_steps`."""
        if self._stuck:
            refused = [(block, self._does_not_move()) for block in blocks]
        else:
            refused = self._inbox.put_all(blocks)
        for block, error in refused:
            block.refuse(error)

    def _does_not_move(self) -> CarouselError:
        message = f"model {self._context.model.name!r} does not move"
        return CarouselError("MODEL_UNHEALTHY", message)

    def _submit_sequence(self, call: Infer) -> None:
        """Counts the steps of a whole sequence until it is answered."""
        quotas, tenant = self._context.quotas, call.tenant
        steps = len(call.inputs) // self._context.model.input_row_bytes
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
        return await encoded(tokenizer_of(self._loaded, self._context.model).encode, text)

    async def encode_prompt(self, text: str) -> tuple[Int64s, int]:
        """Token ids of a text to go on from; see `EnginePort.encode_prompt`."""
        return await encoded(tokenizer_of(self._loaded, self._context.model).encode_prompt, text)

    def pending(self) -> int:
        """About how much accepted work has not been answered, or has not reached the store."""
        undone = len(self._inbox) + int(self._rows.table.pending.sum()) + len(self._sequences)
        return undone + self._rows.ledger.undurable_rows()

    def drain(self) -> None:
        """Refuses new sessions and generations from now on; what was accepted goes on."""
        self._drain_asked = True

    def start(self) -> None:
        """Starts the engine's thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after the running tick; answers what is left with DRAINING. Idempotent.

        Leaves behind a thread that is in its tick for 10 s more; it is a daemon.
        """
        self._inbox.close(CarouselError("DRAINING", "the server is shutting down"))
        self._stopping.set()
        if self._thread.ident is None:
            self._answer_all()
            return
        self._thread.join(_JOIN_S)
        if self._thread.is_alive():
            log.error("model %s: the engine is stuck and was left behind", self._context.model.name)

    # -- the engine's thread

    def tick(self) -> None:
        """One iteration: take what came, choose who steps, step them, hand out the results."""
        now = self._context.clock()
        current_tick.began_s = now
        try:
            self._keeper.check_lease(now)
            self._control.run(self._inbox.drain(), now)
            self._residency.waiting_room.admit(now)
            self._hand_overs.advance(now)
            batch = self._stepping.select(now)
            if batch is not None:
                self._quiet = False
                self._stepping.step(batch, now)
            self._sequences.advance(now, idle=batch is None)
            self._keeper.commit_due(self._context.clock())
        except DeviceLostError as error:
            self._break(str(error))
        if now >= self._next_housekeeping_s:
            self._keep_house(now)

    @property
    def idle(self) -> bool:
        """True if a tick would find nothing to do."""
        return self._idle_for_s() > 0

    def _idle_for_s(self) -> float:
        """How long there is nothing to do, if no command comes; 0 if there is something now."""
        now = self._context.clock()
        if len(self._inbox) or len(self._sequences):
            return 0.0
        table, ledger = self._rows.table, self._rows.ledger
        ready = table.ready.where(table.pending)
        if len(ready) and ledger.limited(ready, now).any():
            return 0.0
        waits = bool(self._residency.waiting_room or self._hand_overs)
        return min(ledger.wait_s(now), _ROOM_S if waits else _HOUSEKEEPING_S)

    def _turn(self) -> None:
        """The thread: ticks until stopped or broken."""
        torch.set_grad_enabled(False)
        with torch.inference_mode():
            try:
                devices.use(self._loaded.device)
                while not self._stopping.is_set() and self._broken is None:
                    if (idle_s := self._idle_for_s()) > 0:
                        self._inbox.wait(idle_s)
                    self._tick_began_s = self._context.clock()
                    self.tick()
                    self._tick_began_s = None
            except Exception:
                log.exception("model %s: a defect in the engine", self._context.model.name)
                self._break("the engine has failed")
            self._answer_all()

    def _keep_house(self, now: float) -> None:
        """Does what is not needed at every tick."""
        self._next_housekeeping_s = now + _HOUSEKEEPING_S
        if self._drain_asked and not self._rows.draining:
            self._rows.drain()
        late = CarouselError("DEADLINE_EXCEEDED", "the deadline passed while generating")
        for row in self._generations.late(now):
            self._generations.end(row, late)
        if now >= self._next_sweep_s:
            self._sweep(now)

    def _sweep(self, now: float) -> None:
        """Expires and parks idle sessions, and sets the levels. With more slots, it runs less often."""
        began = self._context.clock()
        self._residency.expire(now)
        self._residency.park_idle(now)
        if self._quiet and self.idle:
            self.check_integrity()
        self._quiet = True
        rows, metrics = self._rows, self._context.metrics
        metrics.gauges(
            resident=rows.slots.used,
            generating=len(self._generations),
            pending_steps=int(rows.table.pending.sum()),
            inbox=len(self._inbox),
            undurable_steps=rows.ledger.most_ahead(),
            misplaced=rows.placing.misplaced,
        )
        metrics.tenant_sessions(rows.table.tenancy.rows)
        pause_s = min((self._context.clock() - began) / _SWEEP_SHARE, _MOST_BETWEEN_SWEEPS_S)
        self._next_sweep_s = now + max(_HOUSEKEEPING_S, pause_s)

    def check_integrity(self) -> None:
        """Asserts that everything agrees on which sessions are on the rows, and on what they do."""
        self._rows.check_integrity()
        self._generations.check_integrity()

    def _break(self, why: str) -> None:
        """Stops stepping for good: every later command is refused as MODEL_UNHEALTHY."""
        log.error("model %s is unhealthy from now on: %s", self._context.model.name, why)
        self._broken = CarouselError(
            "MODEL_UNHEALTHY", f"model {self._context.model.name!r} has failed"
        )
        self._inbox.close(self._broken)
        self._context.quotas.backlogged.set(self._context.model.name, frozenset())

    def _answer_all(self) -> None:
        """Answers all that waits, at the end of the thread."""
        error = self._broken or CarouselError("DRAINING", "the server is shutting down")
        table, refuse = self._rows.table, self._stepping.refuse
        left = list(self._control.drain())
        while arrived := self._inbox.drain():
            left += [command for command, _ in arrived]
        answers: list[Callable[[], object]] = [
            *(partial(command.refuse, error) for command in left),
            *(partial(command.refuse, error) for command in self._residency.waiting_room.drain()),
            *(partial(self._generations.stop, row, error) for row in self._generations.rows()),
            *(
                partial(refuse, row, error.reason, error.message)
                for row in np.flatnonzero(table.pending * ~table.generating).tolist()
            ),
            partial(self._sequences.fail_all, error),
            partial(self._rows.ledger.fail_all, error),
            partial(self._generations.fail_all, error),
            self._hand_overs.fail_all,
        ]
        if self._broken is not None:
            # Another replica may have them at once.
            rows = np.flatnonzero(table.tracked).tolist()
            now = self._context.clock()
            answers += [partial(self._residency.let_lapse, row, error, now) for row in rows]
        for answer in answers:
            try:
                answer()
            except Exception:
                log.exception("model %s: an answer at the end failed", self.model.name)
