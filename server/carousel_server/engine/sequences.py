"""Whole sequences: the Infer calls of all clients, run together.

Those of a causal model run in chunks of time between the ticks of streaming sessions. They join at the next
chunk and leave with their own last step (cellular batching, Gao et al., EuroSys 2018), so that a short one
waits for no long one. A bidirectional model needs the whole sequence at once: its calls make packed batches.
Tenants take turns, by steps: in the queue, in the places of the batch, and in the steps of each piece.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from math import prod

import numpy as np
import torch
from torch import Tensor

from carousel_models import RecurrentModel
from carousel_models.cells import State
from carousel_server.core.context import Context
from carousel_server.core.errors import CarouselError
from carousel_server.core.futures import settle
from carousel_server.core.ports import Infer
from carousel_server.core.quotas import Shares
from carousel_server.rows.window import invalid_rows, invalid_value

from .finite import FiniteRules, bad_rows, fault_of
from .runner import Runner, fields_to_bytes
from .sequence_queue import SequenceQueue
from .tick_budget import LEAST_ROWS, Sharing, TickBudget

log = logging.getLogger(__name__)

# Steps that run at once while no session wants the device, and rows of all sequences together at any time:
# sessions, and whoever comes, wait for no more than this.
_IDLE_CHUNK_STEPS, _MOST_ROWS = 64, 1024


@dataclass(slots=True, eq=False)
class _Running:
    """One sequence on its way through the model.

    Attributes:
        call: who wants it.
        x: [T, width], as the model reads it.
        done: steps that have run.
        parts: their output rows.
    """

    call: Infer
    x: np.ndarray
    done: int = 0
    parts: list[np.ndarray] = field(default_factory=list)

    @property
    def left(self) -> int:
        """Steps that have not run."""
        return len(self.x) - self.done


class Sequences:
    """The queue of Infer calls and those that are running. Used on the engine's thread only."""

    def __init__(
        self, context: Context, model: RecurrentModel, runner: Runner, sharing: Sharing
    ) -> None:
        limits, share = context.limits, context.share
        self._model = model
        self._finite = FiniteRules.of(model)
        self._runner = runner
        self._view = context.model
        self._limits = limits
        self._metrics = context.metrics
        self._clock = context.clock
        self._sharing = sharing
        most_rows = min(_MOST_ROWS, limits.infer_batch_steps)
        self._budget = TickBudget(limits.shared_tick_s, LEAST_ROWS, most_rows)
        # Others in the batch, and where a sequence is cut, change its rounding, and must not.
        self._strict = context.strict and not model.batch_invariant
        self._waiting = SequenceQueue(limits, share, self._view.input_row_bytes)
        self._running: list[_Running] = []
        # Places of those that run, and the bytes that their outputs will have.
        self._places = Shares(min(limits.max_batch, limits.infer_batch_steps), share)
        self._output_bytes = Shares(limits.inbox_bytes, share)
        # Of those that run one by one: whose turn was last.
        self._last: _Running | None = None
        # Their states, [len(running), *shape] each.
        self._state: State = ()

    def __len__(self) -> int:
        """Number of calls waiting or running."""
        return self._waiting.count + len(self._running)

    def submit(self, call: Infer) -> None:
        """Queues a call, or answers it with a refusal."""
        try:
            self._check(call)
            self._waiting.put(call)
        except CarouselError as error:
            settle(call.reply, error)

    def advance(self, now: float, *, idle: bool) -> None:
        """Runs the next piece; `idle` if no session wants to step.

        Raises:
            DeviceLostError: the device is at fault, not a call.
        """
        if self._waiting.count:
            self._join(now)
        if not self._running:
            return
        self._sharing.worked({one.call.tenant for one in self._running}, now)
        shared = self._sharing.shared(now)
        started = self._clock()
        steps = self._run(self._turn(), self._pieces(idle=idle, shared=shared))
        ended, seconds = self._leave(), self._clock() - started
        self._metrics.inferred(ended, steps, seconds)
        if shared:
            self._budget.ran(steps, seconds)

    def fail_all(self, error: CarouselError) -> None:
        """Answers every call, running or waiting, with an error."""
        calls = [*(one.call for one in self._running), *self._waiting.drain()]
        for one in self._running:
            self._count(one, -1)
        self._running, self._state = [], ()
        for call in calls:
            settle(call.reply, error)

    def _check(self, call: Infer) -> None:
        if invalid_rows(self._view, np.frombuffer(call.inputs, np.uint8)[None]) is not None:
            raise invalid_value(self._view, "the sequence")

    def _join(self, now: float) -> None:
        """Takes the calls whose turn it is and that there is room for, cancelled and late ones left out."""
        new: list[_Running] = []
        if self._view.causal or not self._running:
            while call := self._waiting.pop(lambda call: self._has_room(call, new)):
                if call.deadline_s <= now:
                    late = "waited for too long in the queue"
                    settle(call.reply, CarouselError("DEADLINE_EXCEEDED", late))
                elif not call.reply.cancelled():
                    new.append(_Running(call, self._rows(call)))
                    self._count(new[-1], 1)
        if not new:
            return
        try:
            begun = [
                self._model.initial_state(len(list(calls)), initial)
                for initial, calls in groupby(new, key=lambda one: one.call.initial)
            ]
            parts = [self._state] if self._running else []
            self._state = _joined(*parts, *begun)
        except Exception as error:  # noqa: BLE001 - the device says what it is
            for one in new:
                self._count(one, -1)
            self._refuse([one.call for one in new], error)
        else:
            self._running += new

    def _refuse(self, calls: Sequence[Infer], error: Exception) -> None:
        """Answers calls that the device fails on."""
        log.warning("model %s: whole sequences failed", self._view.name, exc_info=error)
        self._runner.check_device()
        for call in calls:
            settle(call.reply, CarouselError("STEP_FAILED", "the device refused the sequence"))

    def _has_room(self, call: Infer, new: Sequence[_Running]) -> bool:
        """Whether a call that waits may run beside those that run and these."""
        limits, count = self._limits, len(self._running) + len(new)
        if not count:
            return True
        if self._strict:  # each tenant has one, and they run one by one
            return all(one.call.tenant != call.tenant for one in (*self._running, *new))
        if not self._view.causal:
            longest = max(self._steps(call), *(one.left for one in new))
            return count < limits.max_batch and longest * (count + 1) <= limits.infer_batch_steps
        # All that they will have computed is kept until each has ended.
        more = self._steps(call) * self._view.output_row_bytes
        bytes_in_all = sum(map(self._bytes, (*self._running, *new))) + more
        if bytes_in_all > limits.inbox_bytes:
            return False
        if count >= min(limits.max_batch, limits.infer_batch_steps):
            return False
        tenant = call.tenant
        return self._places.fits(tenant) and self._output_bytes.fits(tenant, more)

    def _bytes(self, one: _Running) -> int:
        """Of its outputs, once it has ended."""
        return len(one.x) * self._view.output_row_bytes

    def _count(self, one: _Running, sign: int) -> None:
        """Counts a sequence in or out of the batch."""
        for shares, amount in ((self._places, 1), (self._output_bytes, self._bytes(one))):
            (shares.take if sign > 0 else shares.give_back)(one.call.tenant, amount)

    def _rows(self, call: Infer) -> np.ndarray:
        width = prod(self._view.input.shape)
        return np.frombuffer(call.inputs, self._view.input.dtype).reshape(-1, width)

    def _turn(self) -> Sequence[int]:
        """Places of those that run now: all, or one where they may not run together."""
        if not self._strict:
            return range(len(self._running))
        last = self._running.index(self._last) if self._last in self._running else -1
        place = (last + 1) % len(self._running)
        self._last = self._running[place]
        return range(place, place + 1)

    def _pieces(self, *, idle: bool, shared: bool) -> Sequence[int]:
        """How many steps of each run now: a piece's rows are divided among tenants, then sequences."""
        if not self._view.causal:
            return [one.left for one in self._running]
        if self._strict:
            return [self._limits.chunk_steps] * len(self._running)
        running = Counter(one.call.tenant for one in self._running)
        budget = self._budget
        rows = (budget.steps if shared else budget.most) // len(running)
        most = _IDLE_CHUNK_STEPS if idle else self._limits.chunk_steps
        return [max(1, min(most, rows // running[one.call.tenant])) for one in self._running]

    def _run(self, places: Sequence[int], pieces: Sequence[int]) -> int:
        """Runs those at these places, each up to its piece; returns how many steps that was.

        If they fail together, their halves run, down to the one at fault, which is refused.
        """
        chosen = [self._running[place] for place in places]
        counts = [min(self._running[place].left, pieces[place]) for place in places]
        try:
            rows, faults = self._step(places, chosen, counts)
        except Exception as error:  # noqa: BLE001 - logged where it is judged
            if len(places) == 1:
                self._refuse([chosen[0].call], error)
                return 0
            half = len(places) // 2
            return self._run(places[:half], pieces) + self._run(places[half:], pieces)
        for place, (one, count, part) in enumerate(zip(chosen, counts, rows, strict=True)):
            if place in faults:
                self._metrics.not_finite()
                settle(one.call.reply, faults[place])
                continue
            one.parts.append(part[:count].copy())  # the others' shall not be kept with it
            one.done += count
        return sum(counts)

    def _step(
        self, places: Sequence[int], chosen: Sequence[_Running], counts: Sequence[int]
    ) -> tuple[np.ndarray, dict[int, CarouselError]]:
        """Runs so many steps of each.

        Returns:
            Output rows uint8[n, steps, output_row_bytes], and why some sequences, by their place, have
            an output that is not finite.
        """
        x = np.zeros((len(chosen), max(counts), chosen[0].x.shape[1]), chosen[0].x.dtype)
        for i, (one, count) in enumerate(zip(chosen, counts, strict=True)):
            x[i, :count] = one.x[one.done : one.done + count]
        device = self._model.device
        inputs = torch.from_numpy(x).to(device)
        if self._view.vocabulary:
            inputs = inputs[:, :, 0].long()
        lengths, index = torch.tensor(counts), torch.tensor(places, device=device)
        all_of_them = len(places) == len(self._running)
        before = self._state if all_of_them else tuple(s[index] for s in self._state)
        raw, after = self._model.sequence(inputs, lengths, before if self._view.causal else None)
        faults = self._faults(chosen, raw)
        rows = fields_to_bytes(self._model.finish(raw.flatten(0, 1)))
        if all_of_them:
            self._state = after
        else:
            kept = zip(self._state, after, strict=True)
            self._state = tuple(s.index_copy(0, index, a) for s, a in kept)
        return rows.reshape(*x.shape[:2], -1), faults

    def _faults(self, chosen: Sequence[_Running], raw: Tensor) -> dict[int, CarouselError]:
        """Refusals of the sequences, by place, whose outputs [n, steps, W] are not all finite."""
        if self._finite.hold(raw):
            return {}
        raw = self._finite.numbers(raw)
        bad = bad_rows(raw.flatten(0, 1)).reshape(raw.shape[:2])
        faults = {}
        for place in np.flatnonzero(bad.any(axis=1)).tolist():
            step = int(bad[place].argmax())
            number, fault = chosen[place].done + step + 1, fault_of(raw[place, step])
            message = f"step {number} of the sequence cannot be answered, because {fault} after it"
            faults[place] = CarouselError("STEP_NOT_FINITE", message, field="inputs")
        return faults

    def _leave(self) -> int:
        """Answers those that have ended, forgets those that nobody waits for; returns how many ended."""
        ended = [one for one in self._running if not one.left]
        for one in ended:
            settle(
                one.call.reply, one.parts[0] if len(one.parts) == 1 else np.concatenate(one.parts)
            )
        # Asked once of each: a caller may give up at any moment.
        done = [one.call.reply.done() for one in self._running]
        stay = [i for i, gone in enumerate(done) if not gone]
        if len(stay) < len(self._running):
            for one, gone in zip(self._running, done, strict=True):
                if gone:
                    self._count(one, -1)
            self._running = [self._running[i] for i in stay]
            index = torch.tensor(stay, dtype=torch.int64, device=self._model.device)
            self._state = tuple(tensor[index] for tensor in self._state)
        return len(ended)

    def _steps(self, call: Infer) -> int:
        return len(call.inputs) // self._view.input_row_bytes


def _joined(*states: State) -> State:
    return tuple(torch.cat(tensors) for tensors in zip(*states, strict=True))
