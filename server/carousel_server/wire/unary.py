"""Step: consecutive steps of one session in a unary call."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.core.errors import STORE_WAITS, CarouselError
from carousel_server.core.ports import Bind, CatalogPort, EnginePort, StepBlock, ask
from carousel_server.core.types import Bytes2D, Durability, Int64s, SessionRef, SessionView

from .calls import Context, current_call
from .errors import invalid
from .fields import (
    check_dtype,
    check_reply_size,
    check_seq,
    count_rows,
    deadline_after,
)
from .gate import Gate
from .options import WireOptions
from .places import ask_session
from .replies import answer_of

_WAITS_FOR_STORE = (Durability.SYNC, Durability.SYNC_FSYNC)


class _Waiter:
    """A call that waits for the outputs of its steps, which may come in parts and more than once."""

    def __init__(self, first_seq: int, steps: int, row_bytes: int) -> None:
        self.first_seq = first_seq
        self.steps = steps
        self._row_bytes = row_bytes
        self._outputs = bytearray(steps * row_bytes)
        self._missing = set(range(steps))
        self.done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def take(self, first_seq: int, steps: int, outputs: memoryview) -> None:
        """Keeps what overlaps with the call's own steps."""
        start = max(first_seq, self.first_seq)
        end = min(first_seq + steps, self.first_seq + self.steps)
        if start >= end or self.done.done():
            return
        width = self._row_bytes
        mine, theirs = start - self.first_seq, start - first_seq
        count = end - start
        self._outputs[mine * width : (mine + count) * width] = outputs[
            theirs * width : (theirs + count) * width
        ]
        self._missing.difference_update(range(mine, mine + count))
        if not self._missing:
            self.done.set_result(bytes(self._outputs))

    def waits_for(self, seq: int) -> bool:
        """True if the step is one of the call's own."""
        return self.first_seq <= seq < self.first_seq + self.steps

    def fail(self, error: CarouselError) -> None:
        """Ends the wait."""
        if not self.done.done():
            self.done.set_exception(error)


@dataclass(slots=True)
class _Seat:
    """A session bound to the calls' sink. One call at a time, so that a failure has one owner."""

    tag: int
    bound: bool = False
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiter: _Waiter | None = None
    durable: int = 0
    sync: bool = False


class CallSink:
    """The StepSink that all Step calls of one engine share. A session keeps its seat between calls."""

    def __init__(self, engine: EnginePort, loop: asyncio.AbstractEventLoop) -> None:
        self._engine = engine
        self._loop = loop
        self._next_tag = 1
        self._seats: dict[SessionRef, _Seat] = {}
        self._refs: dict[int, SessionRef] = {}

    # -- on the engine's thread

    def outputs(self, tags: Int64s, first_seqs: Int64s, steps: int, rows: Bytes2D) -> None:
        """Takes outputs."""
        with suppress(RuntimeError):  # the loop has ended: nobody is waiting
            self._loop.call_soon_threadsafe(self._take, tags, first_seqs, steps, rows)

    def failures(self, tags: Sequence[int], seqs: Sequence[int], error: CarouselError) -> None:
        """Takes refusals; one of steps that an earlier call gave up waiting for is old news."""
        take = self._wait_no_longer if STORE_WAITS in error.metadata else self._fail
        with suppress(RuntimeError):
            for tag, seq in zip(tags, seqs, strict=True):
                self._loop.call_soon_threadsafe(take, tag, error, seq)

    def unbound(self, tag: int, error: CarouselError) -> None:
        """Takes the news that a session has left."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._leave, tag, error)

    def durable(self, tags: Int64s, seqs: Int64s) -> None:
        """Takes the store's word."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._note_durable, tags, seqs)

    def parked(self, tag: int, session: SessionView) -> None:
        """Takes the news that a session is in the store for now: the next call fetches it."""
        del session  # each call says what it has received
        gone = CarouselError("SESSION_PARKED", "the session was parked as the call came")
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._leave, tag, gone)

    def returned(self, tag: int, block: StepBlock) -> None:
        """A block came too late for a session that was parked: `parked` has told its call so."""

    # -- on the loop

    async def step(self, ref: SessionRef, block: StepBlock) -> tuple[bytes, int]:
        """Runs a block of one row and waits for its outputs, [steps, output row] as bytes.

        Returns:
            The outputs, and the last step that the store is known to have.

        Raises:
            CarouselError: why the steps were refused, or why the session has left meanwhile.
        """
        while True:
            seat = self._seats.get(ref) or self._new_seat(ref)
            async with seat.turn:
                if self._seats.get(ref) is seat and not seat.bound:
                    await self._bind(ref, seat)
                if self._seats.get(ref) is seat:
                    return await self._run(seat, block)
            # The session left while this call waited for its turn: take a new seat.

    def _new_seat(self, ref: SessionRef) -> _Seat:
        seat = self._seats[ref] = _Seat(self._next_tag)
        self._refs[seat.tag] = ref
        self._next_tag += 1
        return seat

    async def _bind(self, ref: SessionRef, seat: _Seat) -> None:
        try:
            view = await answer_of(self._engine, Bind(ref, self, seat.tag))
            seat.durable, seat.sync = view.durable, view.durability in _WAITS_FOR_STORE
        except BaseException:
            # Refused, or the caller has gone: if the engine has bound it after all, it may tell so to
            # nobody. A seat that stayed here might never be given up.
            self._give_up(seat.tag)
            raise
        seat.bound = True

    async def _run(self, seat: _Seat, block: StepBlock) -> tuple[bytes, int]:
        row_bytes = self._engine.model.output_row_bytes
        waiter = seat.waiter = _Waiter(block.first_seqs[0], block.steps, row_bytes)
        try:
            block.tags = [seat.tag]
            ask(self._engine, block)
            return await waiter.done, seat.durable
        finally:
            seat.waiter = None

    def _note_durable(self, tags: Int64s, seqs: Int64s) -> None:
        for tag, seq in zip(tags.tolist(), seqs.tolist(), strict=True):
            ref = self._refs.get(tag)
            if ref is not None:
                self._seats[ref].durable = seq

    def _take(self, tags: Int64s, first_seqs: Int64s, steps: int, rows: Bytes2D) -> None:
        for tag, first_seq, row in zip(tags.tolist(), first_seqs.tolist(), rows, strict=True):
            waiter = self._waiter(tag)
            if waiter is not None:
                waiter.take(first_seq, steps, row.data)

    def _fail(self, tag: int, error: CarouselError, seq: int = 0) -> None:
        waiter = self._waiter(tag)
        if waiter is not None and (not seq or waiter.waits_for(seq)):
            waiter.fail(error)

    def _wait_no_longer(self, tag: int, error: CarouselError, seq: int) -> None:
        """Ends a call whose outputs wait for a store at fault; the same call can be made again."""
        waiter, ref = self._waiter(tag), self._refs.get(tag)
        if waiter is None or ref is None:
            return
        if self._seats[ref].sync and seq < waiter.first_seq + waiter.steps:
            waiter.fail(error)

    def _leave(self, tag: int, error: CarouselError) -> None:
        self._fail(tag, error)
        self._give_up(tag)

    def _give_up(self, tag: int) -> None:
        ref = self._refs.pop(tag, None)
        if ref is not None and self._seats[ref].tag == tag:
            del self._seats[ref]

    def _waiter(self, tag: int) -> _Waiter | None:
        ref = self._refs.get(tag)
        return None if ref is None else self._seats[ref].waiter


class Step:
    """The method Step."""

    def __init__(self, catalog: CatalogPort, options: WireOptions, gate: Gate) -> None:
        self._catalog = catalog
        self._options = options
        self._gate = gate
        self._sinks: dict[str, CallSink] = {}

    async def step(self, request: pb.StepRequest, context: Context) -> pb.StepResponse:
        """Step. When the caller gives up, accepted steps run all the same; ask again with the seq."""
        self._gate.refuse_if_draining()
        tenant, session_id = current_call().tenant, request.session_id

        async def ask(engine: EnginePort, ref: SessionRef) -> pb.StepResponse:
            return await self._ask(engine, ref, request, context)

        return await ask_session(self._catalog, tenant, session_id, ask)

    async def _ask(
        self, engine: EnginePort, ref: SessionRef, request: pb.StepRequest, context: Context
    ) -> pb.StepResponse:
        model = engine.model
        first_seq = check_seq(request.first_seq, "first_seq")
        ack = check_seq(request.ack, "ack", least=0)
        check_dtype(model, request.dtype)
        steps = count_rows(model, request.inputs)
        if not 0 < steps <= model.window_steps:
            raise invalid("inputs", f"must be 1 to {model.window_steps} rows, but are {steps}")
        check_reply_size(model, steps, self._options.max_message_bytes)
        sink = self._sinks.get(model.name)
        if sink is None:
            sink = self._sinks[model.name] = CallSink(engine, asyncio.get_running_loop())
        block = StepBlock(
            sink=sink,
            tags=(),
            refs=[ref],
            first_seqs=[first_seq],
            steps=steps,
            inputs=request.inputs,
            acks=[ack] if ack else (),
            deadline_s=deadline_after(context.time_remaining()),
            tenant=current_call().tenant,
        )
        outputs, durable = await sink.step(ref, block)
        return pb.StepResponse(first_seq=first_seq, outputs=outputs, durable=durable)
