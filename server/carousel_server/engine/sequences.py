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

import numpy as np
import torch
from torch import Tensor

from carousel_models import RecurrentModel
from carousel_server.core.errors import CarouselError
from carousel_server.core.limits import EngineLimits
from carousel_server.core.ports import EngineMetrics, Infer
from carousel_server.core.types import ModelView

from .runner import fields_to_bytes

log = logging.getLogger(__name__)

# Steps of time a causal batch runs at once while nobody else wants the device.
_IDLE_CHUNK_STEPS = 1024


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
        view: ModelView,
        limits: EngineLimits,
        metrics: EngineMetrics,
        *,
        strict: bool,
    ) -> None:
        self._model = model
        self._view = view
        self._limits = limits
        self._metrics = metrics
        self._strict = strict
        self._waiting: deque[Infer] = deque()
        self._job: _Job | None = None

    def __len__(self) -> int:
        """Number of calls waiting or running."""
        return len(self._waiting) + (len(self._job.calls) if self._job else 0)

    def submit(self, call: Infer) -> None:
        """Queues a call, or answers it with a refusal."""
        try:
            self._check(call)
        except CarouselError as error:
            _answer(call, error)
            return
        self._waiting.append(call)

    def advance(self, now: float, *, idle: bool) -> None:
        """Runs the next piece; `idle` if no session wants to step."""
        if self._job is None:
            self._job = self._next_job(now)
        if self._job is None:
            return
        started = time.monotonic()
        try:
            steps = self._run_piece(self._job, idle=idle)
        except RuntimeError:
            log.exception("model %s: a batch of whole sequences failed", self._view.name)
            self._fail_job(CarouselError("STEP_FAILED", "the device refused the sequences"))
            return
        calls = len(self._job.calls)
        if self._job.done_steps >= self._job.x.shape[1]:
            self._finish(self._job)
            self._job = None
        self._metrics.inferred(calls if self._job is None else 0, steps, time.monotonic() - started)

    def fail_all(self, error: CarouselError) -> None:
        """Answers every call, running or waiting, with an error."""
        self._fail_job(error)
        while self._waiting:
            _answer(self._waiting.popleft(), error)

    def _fail_job(self, error: CarouselError) -> None:
        calls = self._job.calls if self._job else []
        self._job = None
        for call in calls:
            _answer(call, error)

    def _check(self, call: Infer) -> None:
        if len(self._waiting) >= self._limits.max_infer_queue:
            raise CarouselError(
                "QUEUE_FULL",
                f"{len(self._waiting)} sequences are waiting",
                retry_after_s=self._limits.retry_after_s,
            )
        data = np.frombuffer(call.inputs, self._view.input.dtype)
        if self._view.vocabulary:
            if not ((data >= 0) & (data < self._view.vocabulary)).all():
                raise CarouselError(
                    "UNKNOWN_TOKEN",
                    f"a token is outside 0 … {self._view.vocabulary - 1}",
                    field="inputs",
                )
        elif not np.isfinite(data).all():
            raise CarouselError(
                "INPUT_NOT_FINITE", "the sequence has a NaN or an infinity", field="inputs"
            )

    def _next_job(self, now: float) -> _Job | None:
        """The oldest calls that fit together, cancelled and late ones left out."""
        calls: list[Infer] = []
        longest = 0
        while self._waiting:
            call = self._waiting[0]
            steps = self._steps(call)
            most = max(longest, steps)
            if calls and (self._strict or most * (len(calls) + 1) > self._limits.infer_batch_steps):
                break
            self._waiting.popleft()
            if not call.reply.set_running_or_notify_cancel():
                continue
            if call.deadline_s <= now:
                _answer(
                    call, CarouselError("DEADLINE_EXCEEDED", "waited for too long in the queue")
                )
                continue
            calls.append(call)
            longest = most
        return self._pack(calls, longest) if calls else None

    def _pack(self, calls: list[Infer], longest: int) -> _Job:
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
            piece = _IDLE_CHUNK_STEPS if idle or self._strict else self._limits.chunk_steps
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
