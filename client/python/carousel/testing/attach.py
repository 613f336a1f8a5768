"""The fake server's Attach stream."""

from __future__ import annotations

import queue
from typing import Any

import numpy as np

from carousel_protos.v1 import carousel_pb2 as pb

from .refusals import Injections, Refusal
from .sessions import FakeSession, FakeSessions


class FakeStream:
    """One stream: requests in on one thread, responses out of a queue on another."""

    def __init__(
        self, sessions: FakeSessions, injections: Injections, max_steps: int, *, commits: bool
    ) -> None:
        self.out: queue.SimpleQueue[pb.AttachResponse | None] = queue.SimpleQueue()
        self.cut_by: Refusal | None = None
        self.is_cut = False
        self._sessions = sessions
        self._injections = injections
        self._max_steps = max_steps
        self._commits = commits
        self._bound: dict[int, FakeSession] = {}

    def take(self, request: pb.AttachRequest) -> None:
        """Answers one message."""
        event = str(request.WhichOneof("event"))
        with self._sessions.lock:
            if self.is_cut:  # the process that it came to is gone
                return
            getattr(self, f"_{event}")(getattr(request, event))

    def end(self) -> None:
        """The client has gone; its sessions stay."""
        with self._sessions.lock:
            for session in self._bound.values():
                if session.owner is self:
                    session.owner = None
        self.out.put(None)

    def taken_away(self, session: FakeSession, refusal: Refusal) -> None:
        """A session has left this stream."""
        for handle in [h for h, bound in self._bound.items() if bound is session]:
            del self._bound[handle]
            self._say(unbound=pb.Unbound(handle=handle, status=refusal.status()))

    def _say(self, **event: Any) -> None:
        self.out.put(pb.AttachResponse(**event))

    def _refuse(self, handle: int, refusal: Refusal, seq: int = 0) -> None:
        self._say(failure=pb.Failure(handle=handle, seq=seq, status=refusal.status()))

    def _hello(self, _hello: pb.Hello) -> None:
        self._say(
            welcome=pb.Welcome(server_version="fake", max_handles=65_536, max_message_bytes=4 << 20)
        )

    def _bind(self, bind: pb.Bind) -> None:
        try:
            self._injections.check("Bind")
            if bind.WhichOneof("target") == "open":
                session = self._sessions.open(bind.open)
            else:
                session = self._sessions.get(bind.session_id)
        except Refusal as refusal:
            self._refuse(bind.handle, refusal)
            return
        if 0 < bind.attach_id < session.attach_id:
            self._refuse(bind.handle, Refusal("SUPERSEDED", attach_id=session.attach_id))
            return
        if isinstance(session.owner, FakeStream) and session.owner is not self:
            session.owner.taken_away(session, Refusal("SUPERSEDED"))
        session.owner = self
        session.attach_id = max(session.attach_id, bind.attach_id)
        session.epoch = max(session.epoch, bind.epoch_floor) + 1
        if session.stored is not None:
            session.commit()  # Bound is a barrier
        self._bound[bind.handle] = session
        self._say(bound=pb.Bound(handle=bind.handle, session=session.message()))

    def _unbind(self, unbind: pb.Unbind) -> None:
        session = self._bound.pop(unbind.handle, None)
        if session is None:
            self._refuse(unbind.handle, Refusal("HANDLE_NOT_BOUND"))
            return
        session.owner = None
        if unbind.close:
            self._sessions.close(session.id)
        self._say(unbound=pb.Unbound(handle=unbind.handle))

    def _acks(self, acks: pb.Acks) -> None:
        for handle, ack in zip(acks.handles, acks.acks, strict=True):
            if handle in self._bound:
                self._bound[handle].acknowledge(ack)

    def _replay(self, replay: pb.Replay) -> None:
        session = self._bound[replay.handle]
        self._in_parts(session, replay.handle, session.ack + 1, session.visible)

    def committed(self, session: FakeSession) -> None:
        """The store has all that ran of a session: tells so, and what had to wait for that."""
        visible = session.visible
        session.commit()
        for handle in [h for h, bound in self._bound.items() if bound is session]:
            self._say(durable=pb.Durable(handles=[handle], durables=[session.durable]))
            self._in_parts(session, handle, max(visible, session.ack) + 1, session.visible)

    def _block(self, block: pb.Block) -> None:
        rows = np.frombuffer(block.inputs, np.uint8).reshape(len(block.handles), block.steps, -1)
        for place, (handle, first) in enumerate(zip(block.handles, block.first_seqs, strict=True)):
            session = self._bound.get(handle)
            try:
                if session is None:
                    raise Refusal("HANDLE_NOT_BOUND")
                self._injections.check("Step")
                if block.acks:
                    session.acknowledge(block.acks[place])
                session.steps(first, [row.tobytes() for row in rows[place]])
            except Refusal as refusal:
                self._refuse(handle, refusal, first)
                continue
            last = first + block.steps - 1
            self._in_parts(session, handle, first, min(last, session.visible))
            if session.stored is not None and self._commits:
                self.committed(session)

    def _in_parts(self, session: FakeSession, handle: int, first: int, last: int) -> None:
        """As a real server does that cuts chunks, so that clients don't rely on whole blocks."""
        for begin in range(first, last + 1, self._max_steps):
            end = min(begin + self._max_steps - 1, last)
            result = pb.BlockResult(
                handles=[handle],
                first_seqs=[begin],
                steps=end - begin + 1,
                outputs=session.kept(begin, end),
            )
            self._say(outputs=result)

    def drained(self) -> None:
        """The server stops."""
        self._say(drain=pb.Drain())
        self.cut(Refusal("DRAINING", retry_after_s=0.01))

    def cut(self, refusal: Refusal | None = None) -> None:
        """The stream ends, and not because the client wished so; without a refusal, by itself."""
        self.is_cut, self.cut_by = True, refusal
        self.end()
