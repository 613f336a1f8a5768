"""Blocks of an Attach stream: from handles and bytes to one StepBlock. The hot path of the wire."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import repeat

import numpy as np

from carousel_protos.tensors import DATA_TYPES
from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.core.errors import CarouselError
from carousel_server.core.ports import NO_DEADLINE, StepBlock
from carousel_server.core.types import ModelView

from .errors import invalid
from .fields import (
    MAX_TIMEOUT_S,
    check_dtype,
    check_reply_bytes,
    check_resets,
    check_seqs,
    seconds_of,
    shape_error,
)
from .native.readers import NO_ACK, BlockRow
from .options import WireOptions
from .seat import NO_SEAT
from .stream import Stream


class Blocks:
    """Checks and submits the blocks of one stream."""

    def __init__(self, stream: Stream, options: WireOptions) -> None:
        self._stream = stream
        self._seats = stream.seats
        self._max_handles = options.max_handles
        self._max_message_bytes = options.max_message_bytes

    def submit(self, block: pb.Block) -> None:
        """Hands a block to its engine; what is refused is told to the client, handle by handle."""
        handles: Sequence[int] = block.handles
        firsts: Sequence[int] = block.first_seqs
        if len(handles) > self._max_handles:
            self._refuse(handles, firsts, too_many_handles(len(handles), self._max_handles))
            return
        try:
            firsts, acks = _check_columns(block)
            seat_of, engine_at = self._stream.seat_of, self._seats.engine
            seats = [seat_of.get(handle, NO_SEAT) for handle in handles]
            engines = [engine_at[seat] for seat in seats]
            engine = engines[0]
            if engine is not None and engines.count(engine) == len(engines):
                sent = block.inputs, block.resets
                of_engine = self._checked(engine.model, block, seats, firsts, acks, *sent)
                self._seats.submissions.add(engine, of_engine)
            else:
                self._submit_apart(block, seats, firsts, acks)
        except CarouselError as error:
            self._refuse(handles, firsts, error)

    @property
    def follows(self) -> bool:
        """True if the client follows its sessions to other servers."""
        return self._stream.follows

    def submit_plain(self, data: bytes, row: BlockRow, size: int) -> bool:
        """Hands a block to its engine that was read from a message of `size` bytes in `data`.

        False if it is for `submit`: it is not plain, or there is something to be told of it.
        """
        handle, first_seq, steps, ack, dtype, at, end = row
        seats, stream = self._seats, self._stream
        seat = stream.seat_of.get(handle, NO_SEAT)
        engine = seats.engine[seat]
        if engine is None or size > self._max_message_bytes or not stream.outbox.has_room.is_set():
            return False
        model = engine.model
        if not (
            1 <= steps <= model.window_steps
            and end - at == steps * model.input_row_bytes
            and steps * model.output_row_bytes <= self._max_message_bytes
            and dtype in (0, DATA_TYPES[model.input.dtype])
        ):
            return False
        block = StepBlock(
            sink=seats,
            tags=[seats.tag[seat]],
            refs=[seats.ref[seat]],
            first_seqs=[first_seq],
            steps=steps,
            inputs=data[at:end],
            acks=() if ack == NO_ACK else [ack],
            tenant=stream.tenant,
        )
        seats.submissions.add(engine, block)
        return True

    def refuse(self, block: pb.Block, error: CarouselError) -> None:
        """Refuses a block without looking at it."""
        self._refuse(block.handles, block.first_seqs, error)

    def _checked(
        self,
        model: ModelView,
        block: pb.Block,
        seats: list[int],
        firsts: Sequence[int],
        acks: Sequence[int],
        inputs: bytes,
        resets: bytes,
    ) -> StepBlock:
        """Rows of a block as their engine takes them. Raises CarouselError if they do not fit its model."""
        steps, rows = block.steps, len(seats) * block.steps
        check_dtype(model, block.dtype)
        if not 1 <= steps <= model.window_steps:
            raise invalid("steps", f"must be from 1 to {model.window_steps}, but is {steps}")
        if len(inputs) != (expected := rows * model.input_row_bytes):
            raise shape_error(
                model,
                f"{len(seats)} x {steps} rows have {expected} bytes, but inputs has {len(inputs)}",
            )
        check_reply_bytes(rows * model.output_row_bytes, self._max_message_bytes)
        deadline_s = NO_DEADLINE
        if block.HasField("timeout"):
            timeout_s = seconds_of(block.timeout, "timeout", MAX_TIMEOUT_S)
            deadline_s = time.monotonic() + timeout_s
        tag, ref = self._seats.tag, self._seats.ref
        return StepBlock(
            sink=self._seats,
            tags=[tag[seat] for seat in seats],
            refs=[ref[seat] for seat in seats],
            first_seqs=firsts,
            steps=steps,
            inputs=inputs,
            acks=acks,
            deadline_s=deadline_s,
            tenant=self._stream.tenant,
            resets=check_resets(resets, rows) if resets else b"",
        )

    def _submit_apart(
        self, block: pb.Block, seats: list[int], firsts: Sequence[int], acks: list[int]
    ) -> None:
        """Submits a block of which not all sessions are bound.

        The rows whose sessions are bound go together. The others go one by one: those of unknown handles
        are refused, those whose session is away wait for it.
        """
        engines = {engine for seat in seats if (engine := self._seats.engine[seat]) is not None}
        if len(engines) > 1:
            raise invalid("handles", "must be sessions of one model")
        rows = np.frombuffer(block.inputs, np.uint8)
        if len(rows) % len(seats):
            raise invalid("inputs", "must hold as many bytes for each handle")
        rows = rows.reshape(len(seats), -1)
        resets = np.frombuffer(block.resets, np.uint8)
        if len(resets) % len(seats):
            raise invalid("resets", "must hold as many bytes for each handle")
        resets = resets.reshape(len(seats), -1)
        bound: list[int] = []
        for i, (handle, seat) in enumerate(zip(block.handles, seats, strict=True)):
            if not self._seats.takes_steps(seat):
                self._stream.refuse(handle, not_bound(), firsts[i])
            elif self._seats.engine[seat] is not None:
                bound.append(i)
            else:
                model, mine = self._seats.model(seat), slice(i, i + 1)
                sent = rows[i].tobytes(), resets[i].tobytes()
                try:
                    row = self._checked(model, block, [seat], firsts[mine], acks[mine], *sent)
                except CarouselError as error:
                    self._stream.refuse(handle, error, firsts[i])
                else:
                    self._seats.send(seat, row)
        for engine in engines:
            of_bound = (
                [seats[i] for i in bound],
                [firsts[i] for i in bound],
                [acks[i] for i in bound] if acks else [],
                rows[bound].tobytes(),
                resets[bound].tobytes(),
            )
            of_engine = self._checked(engine.model, block, *of_bound)
            self._seats.submissions.add(engine, of_engine)

    def _refuse(
        self, handles: Sequence[int], first_seqs: Sequence[int], error: CarouselError
    ) -> None:
        """Tells each handle, so that whoever waits for its outputs knows.

        A block that names none, or too many to be told, is the client's mistake whatever else is wrong.
        """
        if not handles:
            self._stream.refuse(0, _no_handles())
            return
        if len(handles) > self._max_handles:
            self._stream.refuse(0, too_many_handles(len(handles), self._max_handles))
            return
        seqs = first_seqs if len(first_seqs) == len(handles) else repeat(0)
        refused = dict(zip(handles, seqs, strict=False))
        self._stream.refuse_all(list(refused.items()), error)


def not_bound() -> CarouselError:
    """A handle is unknown on this stream, or not known yet, or no longer; the Failure names it."""
    return CarouselError("HANDLE_NOT_BOUND", "the handle is not bound on this stream")


def too_many_handles(count: int, limit: int) -> CarouselError:
    """More handles than a stream can hold cannot all be bound: nobody looks at each of them."""
    return invalid("handles", f"must be at most {limit} (max_handles), but are {count}")


def _no_handles() -> CarouselError:
    return invalid("handles", "must name at least one session")


def _check_columns(block: pb.Block) -> tuple[list[int], list[int]]:
    """first_seqs and acks, if they run in parallel to handles."""
    count = len(block.handles)
    if count == 0:
        raise _no_handles()
    if len(set(block.handles)) != count:
        raise invalid("handles", "must not name a session twice")
    if len(block.first_seqs) != count:
        raise invalid("first_seqs", f"must be {count}, one per handle")
    if len(block.acks) not in (0, count):
        raise invalid("acks", f"must be {count}, one per handle, or none")
    return check_seqs(block.first_seqs, "first_seqs"), check_seqs(block.acks, "acks", least=0)
