"""A server in miniature, in one process and in virtual time: sessions, a store, crashes, streams that lag.

It keeps the protocol's rules, and asserts that the client does. Sessions fold their inputs, so that an
output shows whatever was lost, repeated or out of order before it.
"""

from __future__ import annotations

import copy
import random
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from carousel._core.attach import AttachCore
from carousel._core.effects import Effects
from carousel._core.journal import Journal
from carousel._core.lane import Lane
from carousel._core.retry import RetryPolicy
from carousel._core.tickets import BindTicket, StepTicket
from carousel._error_bases import CarouselError, ConnectionLostError
from carousel.testing.refusals import Refusal
from carousel_protos.v1 import carousel_pb2 as pb

MODULUS = 1 << 20
OUTPUT_BYTES = 8
TRACKED = (pb.DURABILITY_ASYNC, pb.DURABILITY_SYNC)


def fold(inputs: list[int]) -> list[list[int]]:
    """The outputs of a session that was fed these."""
    state, outputs = 0, []
    for seq, x in enumerate(inputs, 1):
        state = (state * 31 + x) % MODULUS
        outputs.append([seq, state])
    return outputs


@dataclass
class State:
    """What a snapshot holds."""

    applied: int = 0
    ack: int = 0
    fold: int = 0
    attach_id: int = 0
    inputs: dict[int, int] = field(default_factory=dict)
    outputs: dict[int, int] = field(default_factory=dict)


@dataclass
class MiniSession:
    """One session, as its server and its store have it."""

    id: str
    durability: int
    window: int
    now: State = field(default_factory=State)
    stored: State = field(default_factory=State)
    epoch: int = 1
    owner: tuple[MiniStream, int] | None = None
    class_: str = "cpu"
    spoils: int = 0  # added to every fold: a server that computes otherwise

    def message(self) -> pb.Session:
        return pb.Session(
            id=self.id,
            applied=self.now.applied,
            ack=self.now.ack,
            durable=self.stored.applied if self.durability in TRACKED else 0,
            epoch=self.epoch,
            durability=self.durability,
            window_steps=self.window,
            seed=7,
            execution_class=self.class_,
        )

    def commit(self) -> None:
        self.stored = copy.deepcopy(self.now)


class MiniStream:
    """One stream at the server; what it says waits in `out` until it is delivered."""

    def __init__(self, server: MiniServer) -> None:
        self.server = server
        self.out: deque[pb.AttachResponse] = deque()
        self.bound: dict[int, MiniSession] = {}

    def say(self, **event: Any) -> None:
        self.out.append(pb.AttachResponse(**event))

    def refuse(self, handle: int, refusal: Refusal, seq: int = 0) -> None:
        self.say(failure=pb.Failure(handle=handle, seq=seq, status=refusal.status()))

    def take(self, request: pb.AttachRequest) -> None:
        event = str(request.WhichOneof("event"))
        getattr(self, f"_{event}")(getattr(request, event))

    def _hello(self, _hello: pb.Hello) -> None:
        self.say(welcome=pb.Welcome(max_message_bytes=4 << 20))

    def _bind(self, bind: pb.Bind) -> None:
        assert bind.handle not in self.bound
        server, opens = self.server, bind.WhichOneof("target") == "open"
        session_id = bind.open.session_id if opens else bind.session_id
        session = server.sessions.get(session_id)
        try:
            if server.refuse_binds:
                raise server.refuse_binds.popleft()
            if session is None and not opens:
                raise Refusal("SESSION_NOT_FOUND")
            if session is None:
                session = MiniSession(session_id, server.durability, server.window)
                server.sessions[session_id] = session
            if 0 < bind.attach_id < session.now.attach_id:
                raise Refusal("SUPERSEDED", attach_id=session.now.attach_id)
        except Refusal as refusal:
            self.refuse(bind.handle, refusal)
            return
        if session.owner is not None:
            session.owner[0].lose(session, Refusal("SUPERSEDED"))
        session.now.attach_id = max(session.now.attach_id, bind.attach_id)
        session.epoch = max(session.epoch, bind.epoch_floor)
        if session.durability in TRACKED:
            session.commit()  # Bound is a barrier
        session.owner = self, bind.handle
        self.bound[bind.handle] = session
        self.say(bound=pb.Bound(handle=bind.handle, session=session.message()))

    def lose(self, session: MiniSession, refusal: Refusal | None) -> None:
        """A handle is given back, or taken away."""
        for handle in [h for h, bound in self.bound.items() if bound is session]:
            del self.bound[handle]
            session.owner = None
            status = refusal.status() if refusal else None
            self.say(unbound=pb.Unbound(handle=handle, status=status))

    def _unbind(self, unbind: pb.Unbind) -> None:
        session = self.bound.get(unbind.handle)
        if session is None:
            self.refuse(unbind.handle, Refusal("HANDLE_NOT_BOUND"))
            return
        self.lose(session, None)
        if unbind.close:
            del self.server.sessions[session.id]

    def _acks(self, acks: pb.Acks) -> None:
        for handle, ack in zip(acks.handles, acks.acks, strict=True):
            if handle in self.bound:
                self._ack(self.bound[handle], ack)

    def _ack(self, session: MiniSession, ack: int) -> None:
        assert session.now.ack <= ack <= session.now.applied, "not told by this activation"
        session.now.ack = ack

    def _replay(self, replay: pb.Replay) -> None:
        session = self.bound.get(replay.handle)
        if session is None:
            self.refuse(replay.handle, Refusal("HANDLE_NOT_BOUND"))
            return
        for seq in range(session.now.ack + 1, self._visible(session) + 1):
            self._tell(replay.handle, session, seq)

    @staticmethod
    def _visible(session: MiniSession) -> int:
        sync = session.durability == pb.DURABILITY_SYNC
        return session.stored.applied if sync else session.now.applied

    def _tell(self, handle: int, session: MiniSession, seq: int) -> None:
        data = np.array([seq, session.now.outputs[seq]], "<i4").tobytes()
        result = pb.BlockResult(handles=[handle], first_seqs=[seq], steps=1, outputs=data)
        self.say(outputs=result)

    def _block(self, block: pb.Block) -> None:
        rows = np.frombuffer(block.inputs, "<i4").reshape(len(block.handles), block.steps)
        for place, (handle, first) in enumerate(zip(block.handles, block.first_seqs, strict=True)):
            session = self.bound.get(handle)
            if session is None:
                self.refuse(handle, Refusal("HANDLE_NOT_BOUND"), first)
                continue
            if block.acks:
                self._ack(session, block.acks[place])
            if self.server.refuse_steps:
                self.refuse(handle, self.server.refuse_steps.popleft(), first)
                continue
            self._steps(session, handle, first, rows[place].tolist())

    def _steps(self, session: MiniSession, handle: int, first: int, xs: list[int]) -> None:
        now = session.now
        if first > now.applied + 1:
            self.refuse(handle, Refusal("SEQUENCE_GAP"), first)
            return
        assert first + len(xs) - 1 <= now.ack + session.window, "beyond the window"
        for seq, x in enumerate(xs, first):
            if seq <= now.applied:
                assert now.inputs[seq] == x, "reused"
                if now.ack < seq <= self._visible(session):
                    self._tell(handle, session, seq)
                continue
            now.fold = (now.fold * 31 + x + session.spoils) % MODULUS
            now.applied, now.inputs[seq], now.outputs[seq] = seq, x, now.fold
            if session.durability != pb.DURABILITY_SYNC:
                self._tell(handle, session, seq)


class MiniServer:
    """Sessions, their store, and the streams to them."""

    def __init__(self, durability: int = pb.DURABILITY_ASYNC, window: int = 8) -> None:
        self.durability = durability
        self.window = window
        self.sessions: dict[str, MiniSession] = {}
        self.refuse_binds: deque[Refusal] = deque()
        self.refuse_steps: deque[Refusal] = deque()

    def commit(self, session_id: str = "") -> None:
        """The store takes all that ran."""
        for session in list(self.sessions.values()):
            if session_id in ("", session.id) and session.durability in TRACKED:
                before, session.stored = session.stored, copy.deepcopy(session.now)
                if session.owner is not None:
                    self._tell_durable(session, before.applied)

    @staticmethod
    def _tell_durable(session: MiniSession, before: int) -> None:
        assert session.owner is not None
        stream, handle = session.owner
        durable = session.stored.applied
        stream.say(durable=pb.Durable(handles=[handle], durables=[durable]))
        if session.durability == pb.DURABILITY_SYNC:
            for seq in range(max(before, session.now.ack) + 1, durable + 1):
                stream._tell(handle, session, seq)

    def crash(self) -> None:
        """The process dies and comes back: what the store has goes on in a new epoch."""
        for session in list(self.sessions.values()):
            session.owner = None
            if session.durability not in TRACKED:
                del self.sessions[session.id]
                continue
            session.now = copy.deepcopy(session.stored)
            session.epoch += 1


class World:
    """A core, a server, and what is on its way between them. Time is `now_s`."""

    def __init__(
        self, server: MiniServer | None = None, policy: RetryPolicy | None = None, seed: int = 0
    ) -> None:
        self.server = server or MiniServer()
        self.core = AttachCore(
            policy or RetryPolicy(), rng=random.Random(seed), attach_id=lambda: 100
        )
        self.now_s = 0.0
        self.checked = True
        self.stream: MiniStream | None = None
        self.sent: list[pb.AttachRequest] = []
        self.ended: list[object] = []
        self.reconnect_in_s: float | None = 0.0
        self.connect()

    def do(self, effects: Effects) -> Effects:
        self.ended.extend(effects.ended)
        assert not effects.send or self.stream is not None
        for request in effects.send:
            assert self.stream is not None
            self.sent.append(request)
            self.stream.take(request)
        if effects.reconnect_in_s is not None:
            self.reconnect_in_s = effects.reconnect_in_s
        self.check()
        return effects

    def check(self) -> None:
        for lane in self.core._lanes.values() if self.checked else ():
            assert lane.received <= lane.sent < lane.next_seq
            owed = lane.forgettable + 1
            assert not lane.kept or lane.kept[0].last >= owed
            if lane.sent > lane.forgettable and lane.leaving is None:
                assert lane.kept, "an input that may be asked for again was forgotten"
                assert lane.kept[0].first <= owed

    def connect(self) -> None:
        """Opens a stream; its answers wait."""
        self.stream, self.reconnect_in_s = MiniStream(self.server), None
        self.do(self.core.connected())

    def deliver(self, count: int = 1 << 30) -> None:
        """Hands so many of the server's messages to the core."""
        while count and self.stream is not None and self.stream.out:
            count -= 1
            self.do(self.core.receive(self.stream.out.popleft(), self.now_s))

    def break_(self, error: CarouselError | None = None) -> Effects:
        """The stream is gone, with all that was on its way."""
        if self.stream is not None:
            for session in self.stream.bound.values():
                session.owner = None
        self.stream = None
        return self.do(self.core.broken(error or ConnectionLostError("reset"), self.now_s))

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

    def submit(self, lanes: Lane | list[Lane], *rows: list[int]) -> StepTicket:
        lanes = lanes if isinstance(lanes, list) else [lanes]
        inputs = np.array(rows, "<i4").view(np.uint8).reshape(len(lanes), -1, 4)
        ticket, effects = self.core.submit(lanes, inputs, OUTPUT_BYTES)
        self.do(effects)
        return ticket

    def kinds(self) -> list[str]:
        """Of the messages that were sent since this was asked last."""
        kinds = [str(request.WhichOneof("event")) for request in self.sent]
        self.sent.clear()
        return kinds


def outputs_of(ticket: StepTicket, place: int = 0) -> list[list[int]]:
    return ticket.outputs[place].view("<i4").reshape(-1, 2).tolist()
