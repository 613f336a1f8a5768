"""Runs commands: blocks of steps together, every other by a short function a verb."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any

import numpy as np

from carousel_server.core.context import Context
from carousel_server.core.errors import CarouselError
from carousel_server.core.futures import settle
from carousel_server.core.moves import HandOver, MoveAway, Released, SetOwners
from carousel_server.core.ports import (
    Ack,
    Activate,
    Bind,
    CancelGenerate,
    Close,
    Command,
    Draft,
    Export,
    Fork,
    Generate,
    Get,
    Import,
    Infer,
    List,
    Open,
    ReadState,
    Replay,
    StepBlock,
    Unbind,
)
from carousel_server.core.types import GenerateSpec, SessionView
from carousel_server.residency.residency import Residency
from carousel_server.rows import snapshot
from carousel_server.rows.lifecycle import Event
from carousel_server.rows.rows import Rows

from .admission import Admission
from .generation import Generations
from .hand_overs import HandOvers
from .inbox import Arrived

log = logging.getLogger(__name__)

Verbs = Mapping[type, Callable[[Any, float], object]]
"""For each command what runs it, and settles its future unless that has a result."""

_LATER = object()
"""What a verb returns that settles its command's future itself, when the store has answered."""


class Control:
    """Runs commands in order of arrival. Used on the engine's thread only.

    A refusal goes to the command's future or sink; nothing is raised.
    """

    def __init__(
        self,
        context: Context,
        rows: Rows,
        residency: Residency,
        generations: Generations,
        hand_overs: HandOvers,
        verbs: Verbs,
    ) -> None:
        """`verbs`: how others run the commands that are theirs."""
        self._model = context.model
        self._metrics = context.metrics
        self._retry_after_s = context.limits.retry_after_s
        self._rows = rows
        self._table = rows.table
        self._residency = residency
        self._generations = generations
        self._hand_overs = hand_overs
        self._admission = Admission(context, rows)
        # Commands that have come and have not run.
        self._taken: deque[Arrived] = deque()
        self._verbs: Verbs = {
            **verbs,
            Open: lambda c, now: residency.open(c.spec, now),
            Get: lambda c, _: rows.view(c.ref),
            List: lambda c, _: rows.views(c.tenant, c.after, c.limit),
            Close: self._close,
            Bind: self._bind,
            Unbind: self._unbind,
            Ack: self._ack,
            Replay: self._replay,
            Generate: self._generate,
            CancelGenerate: self._cancel_generate,
            Export: self._export,
            ReadState: self._read_state,
            Draft: lambda c, _: snapshot.encode(residency.draft(c.spec)),
            Import: lambda c, now: residency.restore(snapshot.decode(c.snapshot), c.spec, now),
            Fork: lambda c, now: residency.restore(residency.take(c.ref), c.spec, now),
            Activate: self._activate,
            HandOver: self._hand_over,
            MoveAway: self._move_away,
            SetOwners: self._set_owners,
            Released: hand_overs.released,
        }

    def run(self, arrived: list[Arrived], now: float) -> None:
        """Runs what has come. An Ack of other sessions does not part the blocks around it."""
        self._taken.extend(arrived)
        while self._taken:
            command, arrived_s = self._taken.popleft()
            if isinstance(command, StepBlock):
                self._admission.blocks.append((command, arrived_s))
                continue
            if not isinstance(command, Ack) or self._admission.concerns(command):
                self._admission.admit(now)
            self._run(command, now)
        self._admission.admit(now)

    def drain(self) -> Iterator[Command]:
        """Commands that have not been answered, at the end."""
        yield from (block for block, _ in self._admission.blocks)
        yield from (command for command, _ in self._taken)

    def _run(self, command: Command, now: float) -> None:
        """Runs one command and settles its future, if it has one and is not an Infer."""
        reply: Future[Any] | None = getattr(command, "reply", None)
        try:
            result = self._verbs[type(command)](command, now)
        except CarouselError as error:
            command.refuse(error)
            return
        except Exception:
            # A defect of ours in one command must not cost the others their model.
            log.exception("model %s: %s failed", self._model.name, type(command).__name__)
            command.refuse(CarouselError("INTERNAL", "the server failed on this call"))
            return
        if reply is not None and result is not _LATER and not isinstance(command, Infer):
            settle(reply, result)

    def _close(self, command: Close, _now: float) -> object:
        row = self._rows.row_of(command.ref)
        self._residency.end(row, Event.CLOSE, partial(settle, command.reply))
        return _LATER

    def _activate(self, command: Activate, now: float) -> object:
        if command.asked:
            self._metrics.received()
        if command.taken_over:
            self._hand_overs.stay(command.record.key, now)
        self._residency.activate(command, now)
        return _LATER

    def _hand_over(self, command: HandOver, now: float) -> object:
        self._hand_overs.hand_over(command, now)
        return _LATER

    def _move_away(self, command: MoveAway, now: float) -> object:
        self._hand_overs.move_away(command, now)
        return _LATER

    def _set_owners(self, command: SetOwners, _now: float) -> None:
        rows = np.flatnonzero(self._rows.slots.taken)
        self._rows.placing.set(command.addresses, command.own, rows)

    def _bind(self, command: Bind, now: float) -> object:
        row = self._rows.row_of(command.ref)
        self._check_bind(row, command, now)
        if not self._table.tracked[row]:
            return self._bind_now(command, now)
        # The older binding ends here. What it sent and has not run is forgotten: it was not durable, so
        # its sender has it still.
        self._rows.listeners.unbind(row, _superseded())
        if not self._table.generating[row]:
            self._rows.drop_pending(row)
        self._rows.ledger.when_durable(row, partial(self._bind_later, command, now), now)
        return _LATER

    def _bind_later(self, command: Bind, now: float, error: CarouselError | None) -> None:
        """The store has all that ran before, or cannot have it."""
        if error is None and not self._rows.is_live(command.ref):
            error = self._table.why_gone(command.ref)
        settle(command.reply, error or self._bind_now(command, now))

    def _bind_now(self, command: Bind, now: float) -> SessionView:
        row = command.ref.row
        self._rows.listeners.bind(row, command.sink, command.tag, command.hold, _superseded())
        self._rows.use(row, now)
        if command.ack:
            self._rows.acknowledge(np.asarray([row]), np.asarray([command.ack]))
        return self._rows.view(command.ref)

    def _check_bind(self, row: int, command: Bind, now: float) -> None:
        """Refuses another's session, a binding from the past (R10), and a session from the past (R13)."""
        table = self._table
        if command.key not in (None, self._rows.key(row)):
            raise CarouselError("SESSION_NOT_FOUND", "another session is on this row")
        if table.tracked[row] and command.epoch_floor > table.epoch[row]:
            lost = CarouselError(
                "LEASE_LOST",
                f"epoch {command.epoch_floor} of the session was seen elsewhere; here it is in "
                f"{table.epoch[row]}",
                retry_after_s=self._retry_after_s,
            )
            self._residency.revoke(row, lost)
            raise lost
        newest = int(table.attach_id[row])
        if 0 < command.attach_id < newest:
            raise CarouselError(
                "SUPERSEDED",
                "a newer stream or call has bound this session",
                metadata={"attach_id": newest},
            )
        if command.attach_id > newest:
            self._rows.attach(row, command.attach_id, now)

    def _unbind(self, command: Unbind, _now: float) -> None:
        if not self._rows.is_live(command.ref):
            return
        row = command.ref.row
        same = command.tag is None or self._table.tag[row] == command.tag
        if same and self._rows.listeners.is_bound(row, command.sink):
            self._rows.listeners.unbind(row, None)

    def _ack(self, command: Ack, _now: float) -> None:
        rows, generations = np.asarray(command.refs, np.int64).reshape(-1, 2).T
        acks = np.asarray(command.acks, np.int64)
        bound = self._table.sink[rows] == self._rows.listeners.number(command.sink)
        ours = bound & self._rows.slots.live(rows, generations)
        self._rows.acknowledge(rows[ours], acks[ours])

    def _replay(self, command: Replay, _now: float) -> None:
        row = self._rows.row_of(command.ref)
        if self._rows.listeners.is_bound(row, command.sink):
            self._rows.replay(row, int(self._table.ack[row]) + 1, int(self._table.applied[row]))

    def _generate(self, command: Generate, now: float) -> None:
        try:
            self._start_generation(command, now)
        except CarouselError:
            if command.close_after and self._rows.is_live(command.ref):
                self._residency.close(command.ref.row)
            raise

    def _start_generation(self, command: Generate, now: float) -> None:
        row, spec = self._rows.row_of(command.ref), command.spec
        if spec.deadline_s <= now:
            raise CarouselError("DEADLINE_EXCEEDED", "the deadline had passed on arrival")
        self._residency.refuse_if_draining()
        self._start_on_row(command, row, now)
        self._rows.use(row, now)

    def _start_on_row(self, command: Generate, row: int, now: float) -> None:
        spec = command.spec
        again = self._generations.continues(row, spec)
        if again:
            # Asked again while the first call's stream is still thought to be alive. That call may have
            # waited longer for the session or its prompt, and come second.
            if self._generations.is_newer(row, command.asked_s):
                raise _superseded()
            if self._table.generating[row]:
                self._generations.stop(row, _superseded())
        sent = int(self._table.visible(np.asarray([row]))[0])
        if self._table.pending[row] or (sent < self._table.applied[row] and not again):
            raise CarouselError("SESSION_BUSY", "the session has steps or a generation to run")
        if not again:
            self._check_first_seq(row, spec)
            steps = 1 if spec.prompt is None else max(1, len(spec.prompt))
            self._rows.step_quota.check(row, steps)
        self._generations.start(command, now)

    def _check_first_seq(self, row: int, spec: GenerateSpec) -> None:
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
                f"step {spec.first_seq} ran before, and its generation is not the session's last",
                seq=spec.first_seq,
            )

    def _cancel_generate(self, command: CancelGenerate, _now: float) -> None:
        row = command.ref.row
        if self._generations.is_run_by(row, command.sink):
            self._generations.end(row, None)

    def _export(self, command: Export, _now: float) -> object:
        taken = self._residency.take(command.ref)
        return snapshot.encode(taken), self._rows.view(command.ref)

    def _read_state(self, command: ReadState, _now: float) -> object:
        state = self._residency.take(command.ref).state
        return tuple((name, array.tobytes()) for name, array in state.items()), self._rows.view(
            command.ref
        )


def _superseded() -> CarouselError:
    return CarouselError("SUPERSEDED", "a newer stream or call has bound this session")
