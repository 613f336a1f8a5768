"""Blocks of an Attach stream: from handles and bytes to one StepBlock. The hot path of the wire."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat

import numpy as np

from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.core.errors import CarouselError
from carousel_server.core.ports import NO_DEADLINE, StepBlock, ask
from carousel_server.core.types import ModelView

from .errors import invalid
from .fields import (
    MAX_TIMEOUT_S,
    check_dtype,
    check_reply_size,
    check_seqs,
    deadline_after,
    seconds_of,
    shape_error,
)
from .options import WireOptions
from .parking import Parked
from .stream import Stream


class Blocks:
    """Checks and submits the blocks of one stream."""

    def __init__(self, stream: Stream, options: WireOptions) -> None:
        self._stream = stream
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
            inputs = block.inputs
            if not all(map(self._stream.bound.__contains__, handles)):
                handles, firsts, acks, inputs = self._bound_part(block, firsts, acks)
            if handles:
                self._submit(block, list(handles), firsts, acks, inputs)
        except CarouselError as error:
            self._refuse(handles, firsts, error)

    def refuse(self, block: pb.Block, error: CarouselError) -> None:
        """Refuses a block without looking at it."""
        self._refuse(block.handles, block.first_seqs, error)

    def _submit(
        self,
        block: pb.Block,
        handles: list[int],
        firsts: Sequence[int],
        acks: list[int],
        inputs: bytes,
    ) -> None:
        bindings = list(map(self._stream.bound.__getitem__, handles))
        engine = bindings[0].engine
        if any(binding.engine is not engine for binding in bindings):
            raise invalid("handles", "must be sessions of one model")
        model, steps = engine.model, block.steps
        check_dtype(model, block.dtype)
        _check_size(model, len(handles), steps, inputs)
        check_reply_size(model, len(handles) * steps, self._max_message_bytes)
        deadline_s = _deadline_s(block)
        ask(
            engine,
            StepBlock(
                sink=self._stream,
                tags=[binding.tag for binding in bindings],
                refs=[binding.ref for binding in bindings],
                first_seqs=firsts,
                steps=steps,
                inputs=inputs,
                acks=acks,
                deadline_s=deadline_s,
                tenant=self._stream.tenant,
            ),
        )

    def _bound_part(
        self, block: pb.Block, firsts: Sequence[int], acks: list[int]
    ) -> tuple[list[int], list[int], list[int], bytes]:
        """The block without handles that are not bound.

        Those that are bound no longer are told so; those whose session is in the store wait for it.
        """
        rows = np.frombuffer(block.inputs, np.uint8)
        if len(rows) % len(block.handles):
            raise invalid("inputs", "must hold as many bytes for each handle")
        rows = rows.reshape(len(block.handles), -1)
        kept: list[int] = []
        for i, handle in enumerate(block.handles):
            parked = self._stream.parked_handles.get(handle)
            if parked is not None:
                ack = acks[i] if acks else 0
                self._wake(parked, handle, block, firsts[i], ack, rows[i].tobytes())
            elif handle in self._stream.bound:
                kept.append(i)
            else:
                self._stream.refuse(handle, not_bound(), firsts[i])
        return (
            [block.handles[i] for i in kept],
            [firsts[i] for i in kept],
            [acks[i] for i in kept] if acks else [],
            rows[kept].tobytes(),
        )

    def _wake(
        self, parked: Parked, handle: int, block: pb.Block, first: int, ack: int, inputs: bytes
    ) -> None:
        """Lets a row of a block wait for its session."""
        binding, steps = parked.binding, block.steps
        try:
            model = binding.engine.model
            check_dtype(model, block.dtype)
            _check_size(model, 1, steps, inputs)
            check_reply_size(model, steps, self._max_message_bytes)
            waiting = StepBlock(
                sink=self._stream,
                tags=[binding.tag],
                refs=[binding.ref],
                first_seqs=[first],
                steps=steps,
                inputs=inputs,
                acks=[ack] if ack else (),
                deadline_s=_deadline_s(block),
                tenant=self._stream.tenant,
            )
        except CarouselError as error:
            self._stream.refuse(handle, error, first)
            return
        parked.ack = max(parked.ack, ack)
        self._stream.wake(handle, waiting)

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


def _deadline_s(block: pb.Block) -> float:
    """Until when the block's steps may begin, by the monotonic clock."""
    if not block.HasField("timeout"):
        return NO_DEADLINE
    return deadline_after(seconds_of(block.timeout, "timeout", MAX_TIMEOUT_S))


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


def _check_size(model: ModelView, sessions: int, steps: int, inputs: bytes) -> None:
    if not 1 <= steps <= model.window_steps:
        raise invalid("steps", f"must be from 1 to {model.window_steps}, but is {steps}")
    expected = sessions * steps * model.input_row_bytes
    if len(inputs) != expected:
        raise shape_error(
            model,
            f"{sessions} x {steps} rows have {expected} bytes, but inputs has {len(inputs)}",
        )
