"""Step: consecutive steps of one session in a unary call."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.core.catalog import CatalogPort
from carousel_server.core.errors import STORE_WAITS, CarouselError
from carousel_server.core.ports import EnginePort, StepBlock
from carousel_server.core.store import SessionKey
from carousel_server.core.types import Bytes2D, Durability, ModelView, SessionView

from .call import CallContext, current_call
from .errors import invalid
from .fields import (
    check_dtype,
    check_reply_bytes,
    check_resets,
    check_seq,
    count_rows,
    deadline_after,
)
from .gate import Gate
from .options import WireOptions
from .places import find_session
from .replies import reply_of
from .seat import NO_SEAT, Claim
from .seats import Seats
from .turns import Submissions

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


class _Caller:
    """A session that Step calls hold. One call at a time, so that a failure has one owner."""

    def __init__(self) -> None:
        self.seat = NO_SEAT
        self.turn = asyncio.Lock()
        # Set once the session is bound, or has left for a reason.
        self.ready = asyncio.Event()
        self.gone: CarouselError | None = None
        self.waiter: _Waiter | None = None
        self.durable = 0
        self.sync = False

    def fail(self, error: CarouselError) -> None:
        """The session has left, or was never bound."""
        self.gone = error
        self.ready.set()
        if self.waiter is not None:
            self.waiter.fail(error)


class Callers:
    """The door of all Step calls; a `Door`. A session keeps its seat between calls. On the loop only."""

    def __init__(self, catalog: CatalogPort) -> None:
        self._catalog = catalog
        submissions = Submissions(asyncio.get_running_loop())
        self.seats: Seats[SessionKey] = Seats(submissions, catalog, self)
        self._callers: dict[SessionKey, _Caller] = {}

    async def engine_of(self, key: SessionKey) -> EnginePort:
        """The engine of a session. Raises CarouselError as `find_session`."""
        caller = self._callers.get(key)
        engine = None if caller is None else self.seats.engine[caller.seat]
        return engine or (await reply_of(find_session(self._catalog, key)))[0]

    async def step(self, key: SessionKey, block: StepBlock) -> tuple[bytes, int]:
        """Runs a block of one row and waits for its outputs, [steps, output row] as bytes.

        Returns:
            The outputs, and the last step that the store is known to have.

        Raises:
            CarouselError: why the steps were refused, or why the session has left meanwhile.
        """
        while True:
            caller = self._callers.get(key) or self._hold(key)
            async with caller.turn:
                if self._callers.get(key) is not caller:
                    continue  # the session left while this call waited for its turn
                await caller.ready.wait()
                if caller.gone is not None:
                    raise caller.gone
                if self._callers.get(key) is not caller:
                    continue  # it left while this call waited for its binding
                return await self._run(caller, block)

    def _hold(self, key: SessionKey) -> _Caller:
        caller = self._callers[key] = _Caller()
        claim = Claim(key, partial(find_session, self._catalog, key))
        caller.seat = self.seats.take(key, claim)
        self.seats.find(caller.seat)
        return caller

    async def _run(self, caller: _Caller, block: StepBlock) -> tuple[bytes, int]:
        row_bytes = self.seats.model(caller.seat).output_row_bytes
        waiter = caller.waiter = _Waiter(block.first_seqs[0], block.steps, row_bytes)
        try:
            self.seats.send(caller.seat, block)
            return await waiter.done, caller.durable
        finally:
            caller.waiter = None
            if caller.gone is None and self.seats.engine[caller.seat] is None:
                self.seats.release(caller.seat, close=False)  # the next call fetches it

    # -- Door

    def outputs(
        self, owners: list[SessionKey], first_seqs: list[int], steps: int, rows: Bytes2D
    ) -> None:
        """See `Door.outputs`."""
        for key, first_seq, row in zip(owners, first_seqs, rows, strict=True):
            if (waiter := self._callers[key].waiter) is not None:
                waiter.take(first_seq, steps, row.data)

    def durable(self, owners: list[SessionKey], seqs: list[int]) -> None:
        """See `Door.durable`."""
        for key, seq in zip(owners, seqs, strict=True):
            self._callers[key].durable = seq

    def failed(self, refused: Sequence[tuple[SessionKey, int]], error: CarouselError) -> None:
        """See `Door.failed`. A failure of steps that an earlier call gave up waiting for is old."""
        for key, seq in refused:
            caller = self._callers[key]
            if (waiter := caller.waiter) is None:
                continue
            if STORE_WAITS in error.metadata:  # the same call can be made again
                concerned = caller.sync and seq < waiter.first_seq + waiter.steps
            else:
                concerned = not seq or waiter.waits_for(seq)
            if concerned:
                waiter.fail(error)

    def bound(self, owner: SessionKey, session: SessionView) -> None:
        """See `Door.bound`."""
        caller = self._callers[owner]
        caller.durable, caller.sync = session.durable, session.durability in _WAITS_FOR_STORE
        caller.ready.set()

    def refused(self, owner: SessionKey, error: CarouselError) -> None:
        """See `Door.refused`."""
        self._callers.pop(owner).fail(error)

    def away(self, owner: SessionKey, session: SessionView) -> None:
        """Gives the seat back, unless a call waits: its block has come too late, and is sent again."""
        del session  # each call says what it has received
        caller = self._callers[owner]
        if caller.waiter is None:
            self.seats.release(caller.seat, close=False)

    def moved(self, owner: SessionKey, address: str) -> None:
        """Never called: the door's hold is CALLS."""
        raise AssertionError(f"session {owner.id!r} moved to {address!r} from a door of calls")

    def left(self, owner: SessionKey, error: CarouselError | None) -> None:
        """See `Door.left`."""
        caller = self._callers.pop(owner)
        if error is not None:
            caller.fail(error)


class Step:
    """The method Step."""

    def __init__(self, catalog: CatalogPort, options: WireOptions, gate: Gate) -> None:
        self._catalog = catalog
        self._options = options
        self._gate = gate
        # Made by the first call, since it belongs to a loop.
        self._callers: Callers | None = None

    async def model_of(self, session_id: str) -> ModelView:
        """The model of a caller's session, for a door that makes the request's rows itself.

        Raises:
            CarouselError: DRAINING, and as `find_session`.
        """
        self._gate.refuse_if_draining()
        key = SessionKey(current_call().tenant, session_id)
        return (await self._door().engine_of(key)).model

    async def step(self, request: pb.StepRequest, context: CallContext) -> pb.StepResponse:
        """Step. When the caller gives up, accepted steps run all the same; ask again with the seq."""
        self._gate.refuse_if_draining()
        callers = self._door()
        key = SessionKey(current_call().tenant, request.session_id)
        model = (await callers.engine_of(key)).model
        first_seq = check_seq(request.first_seq, "first_seq")
        ack = check_seq(request.ack, "ack", least=0)
        check_dtype(model, request.dtype)
        steps = count_rows(model, request.inputs)
        if not 0 < steps <= model.window_steps:
            raise invalid("inputs", f"must be 1 to {model.window_steps} rows, but are {steps}")
        check_reply_bytes(steps * model.output_row_bytes, self._options.max_message_bytes)
        block = StepBlock(
            sink=callers.seats,
            tags=(),
            refs=(),
            first_seqs=[first_seq],
            steps=steps,
            inputs=request.inputs,
            acks=[ack] if ack else (),
            deadline_s=deadline_after(context.time_remaining()),
            tenant=key.tenant,
            resets=check_resets(request.resets, steps),
        )
        outputs, durable = await callers.step(key, block)
        return pb.StepResponse(first_seq=first_seq, outputs=outputs, durable=durable)

    def _door(self) -> Callers:
        self._callers = self._callers or Callers(self._catalog)
        return self._callers
