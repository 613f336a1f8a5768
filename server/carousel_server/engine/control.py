"""Answers the commands that are not steps: one short function a verb."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from typing import Any

import numpy as np

from carousel_server.core.errors import CarouselError
from carousel_server.core.limits import EngineLimits
from carousel_server.core.ports import (
    Ack,
    Bind,
    CancelGenerate,
    Close,
    Command,
    Export,
    Fork,
    Generate,
    Get,
    Import,
    Infer,
    List,
    Open,
    Replay,
    StepBlock,
    Unbind,
)
from carousel_server.core.types import ModelView
from carousel_server.sessions import Event, SessionTable
from carousel_server.state import snapshot

from .admission import Admission
from .delivery import Delivery
from .generation import Generations
from .lifetimes import Lifetimes
from .sequences import Sequences
from .sinks import Sinks

log = logging.getLogger(__name__)


class Control:
    """Runs commands between two ticks. Used on the engine's thread only.

    A refusal goes to the command's future or sink; nothing is raised.
    """

    def __init__(
        self,
        model: ModelView,
        limits: EngineLimits,
        table: SessionTable,
        lifetimes: Lifetimes,
        admission: Admission,
        delivery: Delivery,
        sinks: Sinks,
        generations: Generations,
        sequences: Sequences,
    ) -> None:
        self._model = model
        self._limits = limits
        self._table = table
        self._lifetimes = lifetimes
        self._admission = admission
        self._delivery = delivery
        self._sinks = sinks
        self._generations = generations
        self._sequences = sequences
        self._verbs: dict[type, Callable[[Any, float], object]] = {
            Open: lambda c, now: lifetimes.open(c.spec, now),
            Get: lambda c, _: lifetimes.view(c.ref),
            List: lambda c, _: lifetimes.views(c.tenant, c.after, c.limit),
            Close: lambda c, _: lifetimes.end(lifetimes.row_of(c.ref), Event.CLOSE),
            Bind: self._bind,
            Unbind: self._unbind,
            Ack: self._ack,
            Replay: self._replay,
            Generate: self._generate,
            CancelGenerate: self._cancel_generate,
            Infer: lambda c, _: sequences.submit(c),
            Export: self._export,
            Import: lambda c, now: lifetimes.restore(snapshot.decode(c.snapshot), c.spec, now),
            Fork: lambda c, now: lifetimes.restore(lifetimes.take(c.ref), c.spec, now),
        }

    def run(self, command: Command, now: float) -> None:
        """Runs one command and settles its future, if it has one and is not an Infer."""
        reply: Future[Any] | None = getattr(command, "reply", None)
        try:
            result = self._verbs[type(command)](command, now)
        except CarouselError as error:
            self.refuse(command, error)
            return
        except Exception:
            # A defect of ours in one command must not cost the others their model.
            log.exception("model %s: %s failed", self._model.name, type(command).__name__)
            self.refuse(command, CarouselError("INTERNAL", "the server failed on this call"))
            return
        if reply is not None and not isinstance(command, Infer):
            _settle(reply, result)

    def refuse(self, command: Command, error: CarouselError) -> None:
        """Answers a command with an error, wherever its caller listens."""
        if isinstance(command, StepBlock):
            for tag, seq in zip(command.tags, command.first_seqs, strict=True):
                told = CarouselError(error.reason, error.message, seq=seq)
                self._delivery.failure(command.sink, tag, told)
        elif isinstance(command, Generate):
            command.sink.failed(error)
        elif (reply := getattr(command, "reply", None)) is not None:
            _settle(reply, error)
        elif isinstance(command, Replay):
            command.sink.failure(0, error.seq, error)

    def end_generation(self, row: int, error: CarouselError | None) -> None:
        """Takes a generation off its session, and closes the session if it was its only purpose."""
        if self._generations.end(row, error).close_after:
            self._lifetimes.end(row, Event.CLOSE)

    def _bind(self, command: Bind, now: float) -> object:
        row = self._lifetimes.row_of(command.ref)
        self._delivery.bind(row, command.sink, command.tag)
        self._table.last_used_s[row] = now
        return self._lifetimes.view(command.ref)

    def _unbind(self, command: Unbind, _now: float) -> None:
        if not self._lifetimes.is_live(command.ref):
            return
        row = command.ref.row
        if self._table.sink[row] == self._sinks.number(command.sink):
            self._delivery.unbind(row, None)

    def _ack(self, command: Ack, _now: float) -> None:
        rows, generations = np.asarray(command.refs, np.int64).reshape(-1, 2).T
        acks = np.asarray(command.acks, np.int64)
        self._admission.acknowledge(command.sink, rows, generations, acks)

    def _replay(self, command: Replay, _now: float) -> None:
        row = self._lifetimes.row_of(command.ref)
        if self._table.sink[row] == self._sinks.number(command.sink):
            first, last = int(self._table.ack[row]) + 1, int(self._table.applied[row])
            self._admission.replay(row, first, last)

    def _generate(self, command: Generate, now: float) -> None:
        try:
            self._start_generation(command, now)
        except CarouselError:
            if command.close_after and self._lifetimes.is_live(command.ref):
                self._lifetimes.end(command.ref.row, Event.CLOSE)
            raise

    def _start_generation(self, command: Generate, now: float) -> None:
        row, spec = self._lifetimes.row_of(command.ref), command.spec
        if spec.deadline_s <= now:
            raise CarouselError("DEADLINE_EXCEEDED", "the deadline had passed on arrival")
        if self._lifetimes.draining:
            raise CarouselError(
                "DRAINING", "the server is shutting down", retry_after_s=self._limits.retry_after_s
            )
        if self._table.pending[row]:
            raise CarouselError("SESSION_BUSY", "the session has steps or a generation to run")
        expected = int(self._table.applied[row]) + 1
        if spec.first_seq > expected:
            raise CarouselError(
                "SEQUENCE_GAP",
                f"first_seq is {spec.first_seq}, but {expected} is next",
                metadata={"expected": expected},
                seq=spec.first_seq,
            )
        if 0 < spec.first_seq < expected:
            raise CarouselError(
                "OUTPUT_FORGOTTEN",
                f"step {spec.first_seq} ran before, and generated tokens are not kept",
                seq=spec.first_seq,
            )
        self._generations.start(command, now)
        self._table.last_used_s[row] = now

    def _cancel_generate(self, command: CancelGenerate, _now: float) -> None:
        row = command.ref.row
        if self._generations.is_run_by(row, command.sink):
            self.end_generation(row, None)

    def _export(self, command: Export, _now: float) -> object:
        taken = self._lifetimes.take(command.ref)
        return snapshot.encode(taken), self._lifetimes.view(command.ref)


def _settle(reply: Future[Any], result: object) -> None:
    """Settles a future; one that was cancelled meanwhile stays cancelled."""
    try:
        if isinstance(result, CarouselError):
            reply.set_exception(result)
        else:
            reply.set_result(result)
    except InvalidStateError:
        pass
