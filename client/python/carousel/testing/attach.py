"""The fake server's Attach stream, without a transport."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from carousel_protos.v1 import carousel_pb2 as pb

from .refusals import Injections, Refusal
from .sessions import FakeSession, FakeSessions

Write = Callable[[pb.AttachResponse | None], None]


class FakeStream:
    """The server's half of one Attach stream.

    Args:
        sessions: all sessions of the server. Their lock guards the stream too.
        injections: the refusals that a test asked for.
        write: receives each response, and None at the end of the stream.
        chunk_steps: most steps in one message of outputs.
        commits: each block is committed to the store as soon as it has run.
        address: of the server.
    """

    def __init__(
        self,
        sessions: FakeSessions,
        injections: Injections,
        write: Write,
        chunk_steps: int,
        *,
        commits: bool,
        address: str = "",
    ) -> None:
        self.bound: dict[int, FakeSession] = {}
        self.cut_by: Refusal | None = None
        self.is_cut = False
        self._sessions = sessions
        self._injections = injections
        self._write = write
        self._chunk_steps = chunk_steps
        self._commits = commits
        self._address = address
        self._follows_moves = False

    def receive(self, request: pb.AttachRequest) -> None:
        """Handles one message. Responses go to `write`. Does nothing after `cut`."""
        event = str(request.WhichOneof("event"))
        with self._sessions.lock:
            if not self.is_cut:
                getattr(self, f"_{event}")(getattr(request, event))

    def end(self) -> None:
        """Unbinds all sessions, which stay open, and ends the stream."""
        with self._sessions.lock:
            for session in self.bound.values():
                if session.owner is self:
                    session.owner = None
        self._write(None)

    def cut(self, refusal: Refusal | None = None) -> None:
        """Breaks the stream from the server's side, with a refusal or as a lost connection."""
        self.is_cut, self.cut_by = True, refusal
        self.end()

    def drain(self) -> None:
        """Sends Drain and breaks the stream, as a server that shuts down."""
        self.send(drain=pb.Drain())
        self.cut(Refusal("DRAINING", retry_after_s=0.01))

    def send(self, **event: Any) -> None:
        """Writes one response, by its field's name."""
        self._write(pb.AttachResponse(**event))

    def refuse(self, handle: int, refusal: Refusal, seq: int = 0) -> None:
        """Sends a Failure. Handle 0 names the whole stream."""
        self.send(failure=pb.Failure(handle=handle, seq=seq, status=refusal.status()))

    def unbind(self, session: FakeSession, refusal: Refusal | None) -> None:
        """Ends a session's binding to this stream, and sends Unbound for each of its handles."""
        for handle in self._handles(session):
            del self.bound[handle]
            session.owner = None
            status = refusal.status() if refusal is not None else None
            self.send(unbound=pb.Unbound(handle=handle, status=status))

    def move(self, session: FakeSession, address: str) -> None:
        """Ends a session's binding to this stream, which goes on at `address`; "" for any other server."""
        if not self._follows_moves:
            self.unbind(session, Refusal("SESSION_HELD"))
            return
        for handle in self._handles(session):
            del self.bound[handle]
            self.send(moved=pb.Moved(handle=handle, address=address))
        session.owner = None

    def commit(self, session: FakeSession) -> None:
        """Commits a session to the store. Sends Durable, and outputs that waited for the store."""
        visible = session.visible
        session.commit()
        for handle in self._handles(session):
            self.send(durable=pb.Durable(handles=[handle], durables=[session.durable]))
            self._outputs(session, handle, max(visible, session.ack) + 1, session.visible)

    def _handles(self, session: FakeSession) -> list[int]:
        return [handle for handle, bound in self.bound.items() if bound is session]

    def _hello(self, hello: pb.Hello) -> None:
        self._follows_moves = hello.follows_moves
        welcome = pb.Welcome(server_version="fake", max_handles=65_536, max_message_bytes=4 << 20)
        self.send(welcome=welcome)

    def _bind(self, bind: pb.Bind) -> None:
        try:
            self._injections.check("Bind")
            if bind.WhichOneof("target") == "open":
                session_id = self._sessions.open(bind.open).id
            else:
                session_id = bind.session_id
            session = self._sessions.take(session_id, self._address, take_over=bind.take_over)
            if 0 < bind.attach_id < session.attach_id:
                raise Refusal("SUPERSEDED", attach_id=session.attach_id)
        except Refusal as refusal:
            self.refuse(bind.handle, refusal)
            return
        if session.owner is not None:
            session.owner.unbind(session, Refusal("SUPERSEDED"))
        session.owner = self
        session.attach_id = max(session.attach_id, bind.attach_id)
        session.epoch = max(session.epoch, bind.epoch_floor)
        if session.stored is not None:
            session.commit()  # Bound is a barrier
        self.bound[bind.handle] = session
        self.send(bound=pb.Bound(handle=bind.handle, session=session.message()))

    def _unbind(self, unbind: pb.Unbind) -> None:
        session = self.bound.get(unbind.handle)
        if session is None:
            self.refuse(unbind.handle, Refusal("HANDLE_NOT_BOUND"))
            return
        if unbind.close:
            self._sessions.close(session.id)
        self.unbind(session, None)

    def _acks(self, acks: pb.Acks) -> None:
        for handle, ack in zip(acks.handles, acks.acks, strict=True):
            if handle in self.bound:
                self.bound[handle].acknowledge(ack)

    def _replay(self, replay: pb.Replay) -> None:
        session = self.bound.get(replay.handle)
        if session is None:
            self.refuse(replay.handle, Refusal("HANDLE_NOT_BOUND"))
            return
        self._outputs(session, replay.handle, session.ack + 1, session.visible)

    def _block(self, block: pb.Block) -> None:
        rows = np.frombuffer(block.inputs, np.uint8).reshape(len(block.handles), block.steps, -1)
        resets = np.zeros(rows.shape[:2], np.uint8)
        if block.resets:
            resets = np.frombuffer(block.resets, np.uint8).reshape(rows.shape[:2])
        for place, (handle, first) in enumerate(zip(block.handles, block.first_seqs, strict=True)):
            session = self.bound.get(handle)
            try:
                if session is None:
                    raise Refusal("HANDLE_NOT_BOUND")
                if block.acks:
                    session.acknowledge(block.acks[place])
                self._injections.check("Step")
                of_steps = resets[place].tolist()
                session.steps(first, [row.tobytes() for row in rows[place]], of_steps)
            except Refusal as refusal:
                self.refuse(handle, refusal, first)
                continue
            last = first + block.steps - 1
            self._outputs(session, handle, first, min(last, session.visible))
            if session.stored is not None and self._commits:
                self.commit(session)

    def _outputs(self, session: FakeSession, handle: int, first: int, last: int) -> None:
        """Sends outputs in pieces of `chunk_steps`, so that clients do not rely on whole blocks."""
        for begin in range(first, last + 1, self._chunk_steps):
            end = min(begin + self._chunk_steps - 1, last)
            result = pb.BlockResult(
                handles=[handle],
                first_seqs=[begin],
                steps=end - begin + 1,
                outputs=session.kept(begin, end),
            )
            self.send(outputs=result)
