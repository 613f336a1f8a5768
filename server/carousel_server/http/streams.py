"""The two streams over WebSocket: Attach, and rows as they come from a microphone or a sensor."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from pydantic_core import to_json
from starlette.routing import BaseRoute, WebSocketRoute

from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.core.errors import CarouselError
from carousel_server.core.types import Durability, ModelView
from carousel_server.wire import WireServer
from carousel_server.wire.call import current_call
from carousel_server.wire.tenants import counted_stream, message_turn

from .rows import fields_of, type_name
from .sessions import session_object
from .sockets import Socket, SocketEndpoint

ATTACH = "/api/attach"

PROTOCOL = "carousel.v1"
"""The subprotocol of Attach: messages of carousel.v1 in binary frames."""


class AttachStream:
    """Attach: a binary frame is one message, and all rules are those of the gRPC stream."""

    def __init__(self, wire: WireServer) -> None:
        self._attach = wire.methods.attach

    async def talk(self, socket: Socket) -> None:
        """Handles one connection."""
        await self._attach.attach(_messages(socket), socket)


async def _messages(socket: Socket) -> AsyncIterator[bytes]:
    while (frame := await socket.receive()) is not None:
        if isinstance(frame, str):
            raise CarouselError("MALFORMED_MESSAGE", "a text frame came; send binary frames")
        yield frame


class RowStream:
    """Rows in binary frames of any size, outputs as JSON.

    The first text frame tells of the session and of what a row is. A text frame {"end": true} of the client
    fills the last row up with zeros, and asks for the outputs that a model of sound still holds back. Without
    `session_id`, the session is the stream's own: it is closed with it, and nothing is stored.
    """

    def __init__(self, wire: WireServer) -> None:
        self._sessions = wire.methods.sessions
        self._step = wire.methods.step
        self._gate = wire.gate
        self._quotas = wire.gate.quotas

    async def talk(self, socket: Socket) -> None:
        """Handles one connection."""
        tenant, ending = current_call().tenant, _Ending()
        try:
            async with counted_stream(self._quotas, tenant):
                with self._gate.admit(ending, tenant):
                    await self._serve(socket)
        except asyncio.CancelledError:
            raise ending.reason() from None

    async def _serve(self, socket: Socket) -> None:
        """Steps the named session, or one of the stream's own."""
        if session_id := socket.query("session_id"):
            request = pb.GetSessionRequest(session_id=session_id)
            session = (await self._sessions.get_session(request, socket)).session
            await self._run(socket, session)
            return
        opening = pb.OpenSessionRequest(
            model=socket.path("model"),
            durability=Durability.NONE.value,  # type: ignore[arg-type]
            initial=socket.query("initial"),
        )
        session = (await self._sessions.open_session(opening, socket)).session
        try:
            await self._run(socket, session)
        finally:
            closing = pb.CloseSessionRequest(session_id=session.id)
            with suppress(CarouselError):  # it has ended, or the server does
                await self._sessions.close_session(closing, socket)

    async def _run(self, socket: Socket, session: pb.Session) -> None:
        """Steps the session with what comes, until the client has ended."""
        model = await self._step.model_of(session.id)
        if model.name != socket.path("model"):
            raise CarouselError(
                "SESSION_NOT_FOUND",
                f"session {session.id!r} is of model {model.name!r}",
                metadata={"session": session.id},
            )
        await socket.write(_text({"session": session_object(session), **_form_of(model)}))
        rows, seq = Rows(model, session.window_steps), session.applied + 1
        while not rows.ended and (frame := await socket.receive()) is not None:
            if isinstance(frame, str):
                rows.end(frame)
            else:
                rows.add(frame)
            while inputs := rows.next():
                await message_turn(self._quotas, current_call().tenant)
                request = pb.StepRequest(
                    session_id=session.id, first_seq=seq, ack=seq - 1, inputs=inputs
                )
                stepped = await self._step.step(request, socket)
                outputs = fields_of(model, stepped.outputs)
                await socket.write(_text({"first_seq": seq, "outputs": outputs}))
                seq += len(inputs) // model.input.row_bytes


class _Ending:
    """Ends the stream of the running task with the server: a `Drainable`."""

    def __init__(self) -> None:
        self._task = asyncio.current_task()
        self._error: CarouselError | None = None

    def announce_drain(self, grace_s: float, *, hands_over: bool) -> None:
        """Nothing to say: its next rows are refused by name."""

    def finish(self, error: CarouselError) -> None:
        """Ends the stream."""
        if self._error is None and self._task is not None:
            self._error = error
            self._task.cancel()

    def reason(self) -> BaseException:
        """Why the task was cancelled, once it was."""
        if self._error is None or self._task is None:
            return asyncio.CancelledError()
        self._task.uncancel()
        return self._error


class Rows:
    """Bytes of any size to whole rows.

    Attributes:
        ended: nothing more is taken.
    """

    def __init__(self, model: ModelView, most: int) -> None:
        """`most`: rows that `next` gives at a time."""
        self._model = model
        self._row_bytes = model.input.row_bytes
        self._most_bytes = most * self._row_bytes
        self._bytes = bytearray()
        self.ended = False

    def add(self, data: bytes) -> None:
        """Takes bytes."""
        self._bytes += data

    def end(self, text: str) -> None:
        """Takes the word of the end: fills the last row up, and adds what a model of sound is late by.

        Raises:
            CarouselError: MALFORMED_MESSAGE if it is another word.
        """
        try:
            word = json.loads(text)
        except ValueError:
            word = None
        if word != {"end": True}:
            raise CarouselError("MALFORMED_MESSAGE", 'the only text frame is {"end": true}')
        self.ended = True
        self._bytes += bytes(-len(self._bytes) % self._row_bytes)
        signal = self._model.signal
        if signal is not None and signal.output:
            self._bytes += bytes(-(-signal.delay // signal.hop) * self._row_bytes)

    def next(self) -> bytes:
        """The next whole rows; empty if there are none."""
        whole = len(self._bytes) - len(self._bytes) % self._row_bytes
        size = min(whole, self._most_bytes)
        rows = bytes(self._bytes[:size])
        del self._bytes[:size]
        return rows


def _form_of(model: ModelView) -> dict[str, Any]:
    """What a row is."""
    row, signal = model.input, model.signal
    form: dict[str, Any] = {
        "row": {"dtype": type_name(row), "shape": list(row.shape), "bytes": row.row_bytes}
    }
    if signal is not None:
        form["signal"] = signal._asdict()
    return form


def _text(content: Any) -> str:
    return to_json(content).decode()


def routes(wire: WireServer) -> list[BaseRoute]:
    """The routes."""
    attach, rows = AttachStream(wire).talk, RowStream(wire).talk
    return [
        WebSocketRoute(ATTACH, SocketEndpoint(wire, "Attach", attach, PROTOCOL)),
        WebSocketRoute("/api/models/{model}/rows", SocketEndpoint(wire, "Rows", rows)),
    ]
