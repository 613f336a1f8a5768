"""Whole sequences: collects the Infer calls of all clients into packed batches.

A causal model's batch runs in chunks of time between the ticks of streaming sessions; a bidirectional
one needs the whole sequence at once.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from concurrent.futures import InvalidStateError
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from carousel_models import RecurrentModel
from carousel_server.core.errors import CarouselError
from carousel_server.core.limits import EngineLimits
from carousel_server.core.metering import EngineMetrics
from carousel_server.core.ports import Infer
from carousel_server.core.types import ModelView

from .runner import Runner, fields_to_bytes
from .values import invalid_value, valid_rows

log = logging.getLogger(__name__)

# Steps of time a causal batch runs at once while no session wants the device; one that comes then waits
# for no more than this.
_IDLE_CHUNK_STEPS = 128


@dataclass(slots=True)
class _Job:
    """One packed batch on its way through the model."""

    calls: list[Infer]
    x: Tensor
    lengths: Tensor
    done_steps: int = 0
    state: tuple[Tensor, ...] | None = None
    parts: list[list[np.ndarray]] = field(default_factory=list)


class Sequences:
    """The queue of Infer calls and the batch that is running. Used on the engine's thread only."""

    def __init__(
        self,
        model: RecurrentModel,
        runner: Runner,
        view: ModelView,
        limits: EngineLimits,
        metrics: EngineMetrics,
        *,
        strict: bool,
    ) -> None:
        self._model = model
        self._runner = runner
        self._view = view
        self._limits = limits
        self._metrics = metrics
        self._strict = strict
        self._waiting: deque[Infer] = deque()
        self._waiting_bytes = 0
        self._job: _Job | None = None
        # Calls of a batch that failed, to be run again in smaller ones.
        self._again: deque[list[Infer]] = deque()

    def __len__(self) -> int:
        """Number of calls waiting or running."""
        job = self._job
        again = sum(map(len, tuple(self._again))) if self._again else 0
        return len(self._waiting) + again + (len(job.calls) if job else 0)

    def submit(self, call: Infer) -> None:
        """Queues a call, or answers it with a refusal."""
        try:
            self._check(call)
        except CarouselError as error:
            _answer(call, error)
            return
        self._waiting.append(call)
        self._waiting_bytes += len(call.inputs)

    def advance(self, now: float, *, idle: bool) -> None:
        """Runs the next piece; `idle` if no session wants to step.

        Raises:
            DeviceLostError: the device is at fault, not a call.
        """
        if self._job is None:
            self._job = self._next_job(now)
        if self._job is None:
            return
        started = time.monotonic()
        try:
            steps = self._run_piece(self._job, idle=idle)
        except Exception:
            log.exception("model %s: a batch of whole sequences failed", self._view.name)
            self._runner.check_device()
            self._split(self._job.calls)
            return
        calls = len(self._job.calls)
        if self._job.done_steps >= self._job.x.shape[1]:
            self._finish(self._job)
            self._job = None
        self._metrics.inferred(calls if self._job is None else 0, steps, time.monotonic() - started)

    def fail_all(self, error: CarouselError) -> None:
        """Answers every call, running or waiting, with an error."""
        calls = [*(self._job.calls if self._job else ()), *chain(*self._again), *self._waiting]
        self._job, self._waiting_bytes = None, 0
        self._again.clear()
        self._waiting.clear()
        for call in calls:
            _answer(call, error)

    def _split(self, calls: list[Infer]) -> None:
        """Runs the halves of a failed batch again, down to the call at fault, which is refused."""
        self._job = None
        if len(calls) == 1:
            _answer(calls[0], CarouselError("STEP_FAILED", "the device refused the sequence"))
            return
        half = len(calls) // 2
        self._again.extend((calls[:half], calls[half:]))

    def _check(self, call: Infer) -> None:
        size = len(call.inputs)
        if self._full(size):
            self._forget_cancelled()
        if self._full(size):
            raise CarouselError(
                "QUEUE_FULL",
                f"{len(self._waiting)} sequences with {self._waiting_bytes} bytes are waiting",
                retry_after_s=self._limits.retry_after_s,
            )
        if not valid_rows(self._view, np.frombuffer(call.inputs, np.uint8)[None])[0]:
            raise invalid_value(self._view, "the sequence")

    def _full(self, more_bytes: int) -> bool:
        limits = self._limits
        return (
            len(self._waiting) >= limits.max_infer_queue
            or self._waiting_bytes + more_bytes > limits.inbox_bytes
        )

    def _forget_cancelled(self) -> None:
        self._waiting = deque(call for call in self._waiting if not call.reply.cancelled())
        self._waiting_bytes = sum(len(call.inputs) for call in self._waiting)

    def _next_job(self, now: float) -> _Job | None:
        """The oldest calls that fit together, cancelled and late ones left out."""
        if self._again:
            return self._pack(self._again.popleft())
        calls: list[Infer] = []
        longest = 0
        while self._waiting:
            call = self._waiting[0]
            most = max(longest, self._steps(call))
            if calls and (self._strict or most * (len(calls) + 1) > self._limits.infer_batch_steps):
                break
            self._waiting.popleft()
            self._waiting_bytes -= len(call.inputs)
            if not call.reply.set_running_or_notify_cancel():
                continue
            if call.deadline_s <= now:
                _answer(
                    call, CarouselError("DEADLINE_EXCEEDED", "waited for too long in the queue")
                )
                continue
            calls.append(call)
            longest = most
        return self._pack(calls) if calls else None

    def _pack(self, calls: list[Infer]) -> _Job:
        longest = max(map(self._steps, calls))
        width = self._view.input_row_bytes // 4
        x = np.zeros((len(calls), longest, width), self._view.input.dtype)
        for i, call in enumerate(calls):
            rows = np.frombuffer(call.inputs, self._view.input.dtype).reshape(-1, width)
            x[i, : len(rows)] = rows
        lengths = torch.tensor([self._steps(call) for call in calls], dtype=torch.int64)
        tensor = torch.from_numpy(x).to(self._model.device)
        if self._view.vocabulary:
            tensor = tensor[:, :, 0].long()
        return _Job(calls, tensor, lengths, parts=[[] for _ in calls])

    def _run_piece(self, job: _Job, *, idle: bool) -> int:
        """Runs the next stretch of time of a batch; returns how many steps of sequences that was."""
        total = job.x.shape[1]
        piece = total
        if self._view.causal:
            # In strict mode the cut is always the same: where it falls, rounding may differ.
            piece = _IDLE_CHUNK_STEPS if idle and not self._strict else self._limits.chunk_steps
        start, end = job.done_steps, min(job.done_steps + piece, total)
        lengths = (job.lengths - start).clamp(0, end - start)
        live = (lengths > 0).nonzero()[:, 0]
        raw = self._run_stretch(job, job.x[live, start:end], lengths[live], live)
        job.done_steps = end
        for i, row in zip(live.tolist(), raw, strict=True):
            parts = self._model.finish(row[: int(lengths[i])])
            job.parts[i].append(fields_to_bytes(parts))
        return int(lengths.sum())

    def _run_stretch(self, job: _Job, x: Tensor, lengths: Tensor, live: Tensor) -> Tensor:
        """Raw outputs of the live sequences; carries their states on to the next stretch."""
        if not self._view.causal:
            return self._model.sequence(x, lengths)[0]
        live = live.to(x.device)
        state = job.state or self._model.initial_state(len(job.calls))
        raw, after = self._model.sequence(x, lengths, tuple(s[live] for s in state))
        job.state = tuple(s.index_copy(0, live, a) for s, a in zip(state, after, strict=True))
        return raw

    def _finish(self, job: _Job) -> None:
        for call, parts in zip(job.calls, job.parts, strict=True):
            _answer(call, parts[0] if len(parts) == 1 else np.concatenate(parts))

    def _steps(self, call: Infer) -> int:
        return len(call.inputs) // self._view.input_row_bytes


def _answer(call: Infer, result: np.ndarray | CarouselError) -> None:
    """Settles a call; one that was cancelled meanwhile stays cancelled."""
    try:
        if isinstance(result, CarouselError):
            call.reply.set_exception(result)
        else:
            call.reply.set_result(result)
    except InvalidStateError:
        pass
