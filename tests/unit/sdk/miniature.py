"""The fake server in virtual time, without a transport, and the client's core on the other side.

Sessions fold their inputs, so each output depends on all steps before it. Streams assert that the client
keeps the protocol's rules, where the fake server alone would refuse or ignore the message.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import numpy as np

from carousel._core.addresses import Addresses
from carousel._core.attach import AttachCore
from carousel._core.effects import Effects
from carousel._core.journal import Journal
from carousel._core.lane import Lane
from carousel._core.retry import RetryPolicy
from carousel._core.tickets import BindTicket, Rows, StepTicket
from carousel._error_bases import CarouselError, ConnectionLostError
from carousel.testing import FakeModel
from carousel.testing.attach import FakeStream
from carousel.testing.refusals import Injections
from carousel.testing.sessions import FakeSession, FakeSessions
from carousel_protos.v1 import carousel_pb2 as pb

HOST = "host:1"
MODULUS = 1 << 20
OUTPUT_BYTES = 8


def _step(x: Any, state: Any) -> tuple[Any, Any]:
    """The state has the fold, and all inputs."""
    folded, inputs = state
    folded, inputs = (folded * 31 + int(x)) % MODULUS, (*inputs, int(x))
    return {"seq": len(inputs), "fold": folded}, (folded, inputs)


def _other_step(x: Any, state: Any) -> tuple[Any, Any]:
    y, (folded, inputs) = _step(x, state)
    return {**y, "fold": y["fold"] + 1}, (folded + 1, inputs)


FIELDS: dict[str, tuple[str, tuple[int, ...]]] = {"seq": ("<i4", ()), "fold": ("<i4", ())}
FOLD = FakeModel("m", _step, fields=FIELDS, initial=(0, ()), window_steps=8)


def fold(inputs: list[int], resets: Collection[int] = ()) -> list[list[int]]:
    """The outputs of a session that was fed these; `resets` are the places that start from the beginning."""
    state, outputs = FOLD.initial, []
    for place, x in enumerate(inputs):
        if place in resets:
            state = FOLD.initial
        y, state = FOLD.step(x, state)
        outputs.append([y["seq"], y["fold"]])
    return outputs


def inputs_of(session: FakeSession) -> list[int]:
    """All inputs that the session has run, since its last reset."""
    return list(session.state[1])


def compute_otherwise(session: FakeSession) -> None:
    """From now on the session's device gives other outputs."""
    session.model = replace(session.model, step=_other_step)
    session.execution_class = "cuda"


def roll_back_store(session: FakeSession, applied: int = 0) -> None:
    """The store has an earlier state of the session."""
    earlier = FakeSession("", FOLD, FOLD.initial, 0, applied=applied)
    session.stored = earlier.taken() | {"begun": None}


class StrictStream(FakeStream):
    """A stream that asserts what a client must never do. Its responses wait in `out`."""

    def __init__(self, sessions: FakeSessions, injections: Injections, address: str) -> None:
        self.out: deque[pb.AttachResponse] = deque()
        super().__init__(
            sessions, injections, self._keep, chunk_steps=1, commits=False, address=address
        )

    def _keep(self, response: pb.AttachResponse | None) -> None:
        if response is not None:
            self.out.append(response)

    def _bind(self, bind: pb.Bind) -> None:
        assert bind.handle not in self.bound
        super()._bind(bind)

    def _acks(self, acks: pb.Acks) -> None:
        for handle, ack in zip(acks.handles, acks.acks, strict=True):
            self._check_ack(handle, ack)
        super()._acks(acks)

    def _block(self, block: pb.Block) -> None:
        acks = block.acks or [0] * len(block.handles)
        rows = np.frombuffer(block.inputs, "<i4").reshape(len(block.handles), block.steps)
        for handle, first, ack, xs in zip(block.handles, block.first_seqs, acks, rows, strict=True):
            if block.acks:
                self._check_ack(handle, ack)
            if handle in self.bound:
                self._check_steps(self.bound[handle], first, ack, xs.tolist())
        super()._block(block)

    def _check_ack(self, handle: int, ack: int) -> None:
        if handle in self.bound:
            session = self.bound[handle]
            assert session.ack <= ack <= session.applied, "this activation has not sent that output"

    @staticmethod
    def _check_steps(session: FakeSession, first: int, ack: int, xs: list[int]) -> None:
        last = first + len(xs) - 1
        if first > session.applied + 1:
            return  # a gap, which the server refuses
        assert last <= max(session.ack, ack) + session.model.window_steps, "beyond the window"
        inputs = inputs_of(session)
        known_from = session.applied - len(inputs) + 1
        skipped = max(known_from - first, 0)
        again = inputs[first + skipped - known_from : max(last - known_from + 1, 0)]
        assert again == xs[skipped : session.applied + 1 - first], "reused"


class MiniServer:
    """Sessions, their store, and the streams to them. One that is `beside` another has the same sessions."""

    def __init__(
        self,
        durability: int = pb.DURABILITY_ASYNC,
        *,
        address: str = HOST,
        beside: MiniServer | None = None,
    ) -> None:
        self.address = address
        self.injections = Injections()
        self.refuse_binds = self.injections.waiting["Bind"]
        self.refuse_steps = self.injections.waiting["Step"]
        models = {"": FOLD, "m": FOLD}
        self.all = FakeSessions(models, durability) if beside is None else beside.all
        self.sessions = self.all.by_id
        self.commit = self.all.commit
        self.crash = self.all.crash

    def stream(self) -> StrictStream:
        return StrictStream(self.all, self.injections, self.address)


class World:
    """A core, a server, and the messages in flight between them. Time is `now_s`."""

    def __init__(
        self, server: MiniServer | None = None, policy: RetryPolicy | None = None, seed: int = 0
    ) -> None:
        self.server = server or MiniServer()
        self.core = AttachCore(
            Addresses((HOST,)),
            policy or RetryPolicy(),
            rng=random.Random(seed),
            attach_id=lambda: 100,
        )
        self.now_s = 0.0
        self.checked = True
        self.stream: StrictStream | None = None
        self.sent: list[pb.AttachRequest] = []
        self.ended: list[object] = []
        self.reconnect_in_s: float | None = 0.0
        self.connect()

    def do(self, effects: Effects) -> Effects:
        self.ended.extend(effects.ended)
        assert not effects.send or self.stream is not None
        for request in effects.send.get(HOST, ()):
            assert self.stream is not None
            self.sent.append(request)
            self.stream.receive(request)
        self.reconnect_in_s = effects.connect.get(HOST, self.reconnect_in_s)
        self.check()
        return effects

    def check(self) -> None:
        for lane in self.core._bindings.lanes.values() if self.checked else ():
            assert lane.cursors.received <= lane.cursors.sent < lane.cursors.next_seq
            owed = lane.cursors.forgettable + 1
            assert not lane.log.inputs or lane.log.inputs[0].last >= owed
            if lane.cursors.sent > lane.cursors.forgettable and lane.leaving is None:
                assert lane.log.inputs, "an input that may be asked for again was forgotten"
                assert lane.log.inputs[0].first <= owed

    def connect(self) -> None:
        """Opens a stream. Its responses wait."""
        self.stream, self.reconnect_in_s = self.server.stream(), None
        self.do(self.core.connected(HOST))

    def deliver(self, count: int = 1 << 30) -> None:
        """Hands so many of the server's messages to the core."""
        while count and self.stream is not None and self.stream.out:
            count -= 1
            self.do(self.core.receive(HOST, self.stream.out.popleft(), self.now_s))

    def break_(self, error: CarouselError | None = None) -> Effects:
        """The stream is gone, with all messages in flight."""
        if self.stream is not None:
            self.stream.end()
        self.stream = None
        return self.do(self.core.broken(HOST, error or ConnectionLostError("reset"), self.now_s))

    def crash(self) -> Effects:
        self.server.crash()
        return self.break_()

    def resume(self) -> None:
        """A new stream, and everything is delivered."""
        self.connect()
        self.deliver()

    def wait_until_due(self) -> None:
        """Time passes until the core wanted to be told."""
        assert self.core.next_due_s is not None
        self.now_s = max(self.now_s, self.core.next_due_s)
        self.do(self.core.due(self.now_s))

    def open(
        self, session_id: str = "s", journal: Journal | None = None, *, deliver: bool = True
    ) -> Lane:
        return self.bind(
            pb.OpenSessionRequest(session_id=session_id), journal, deliver=deliver
        ).lane

    def bind(
        self,
        target: str | pb.OpenSessionRequest,
        journal: Journal | None = None,
        *,
        deliver: bool = True,
    ) -> BindTicket:
        ticket, effects = self.core.bind(target, journal=journal)
        self.do(effects)
        if deliver:
            self.deliver()
        return ticket

    def submit(
        self, lanes: Lane | list[Lane], *rows: list[int], resets: Rows | None = None
    ) -> StepTicket:
        lanes = lanes if isinstance(lanes, list) else [lanes]
        inputs = np.array(rows, "<i4").view(np.uint8).reshape(len(lanes), -1, 4)
        ticket, effects = self.core.submit(lanes, inputs, OUTPUT_BYTES, resets=resets)
        self.do(effects)
        return ticket

    def kinds(self) -> list[str]:
        """Of the messages that were sent since this was asked last."""
        kinds = [str(request.WhichOneof("event")) for request in self.sent]
        self.sent.clear()
        return kinds


def outputs_of(ticket: StepTicket, place: int = 0) -> list[list[int]]:
    return ticket.outputs[place].view("<i4").reshape(-1, 2).tolist()
