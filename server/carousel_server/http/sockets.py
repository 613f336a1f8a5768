"""Routes that are WebSockets: who may connect, the surroundings of all calls, and how a call ends.

What gRPC ends a call with comes as a text frame with problem details, and then as a close code: 4000 and the
number of the canonical code (RFC 6455 leaves 4000 to 4999 to applications).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import urlsplit

from pydantic_core import to_json
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from carousel_server.core.errors import CarouselError
from carousel_server.core.metering import HTTP
from carousel_server.wire import WireServer
from carousel_server.wire.call import REQUEST_ID, Call, request_id_of
from carousel_server.wire.lanes import Lane

from .connections import names_of, peer_of
from .problems import problem_of

BEARER = "carousel.bearer."
"""A subprotocol that carries the token as base64url, because a page cannot set headers of a WebSocket."""

FAILED = 4000
"""The close code of an error is this and the number of its canonical code."""

_DONE = 1000


class Socket:
    """One connection, as its handler has it: the CallContext of its call."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket

    def path(self, name: str) -> str:
        """A part of the path."""
        return str(self._socket.path_params[name])

    def query(self, name: str) -> str:
        """A value of the query; empty if it is not there."""
        return self._socket.query_params.get(name, "")

    def time_remaining(self) -> float | None:
        """See `CallContext`. A WebSocket has no deadline."""
        return None

    async def receive(self) -> bytes | str | None:
        """The next binary or text frame. None if the client has left."""
        event = await self._socket.receive()
        if event["type"] != "websocket.receive":
            return None
        data: bytes | str | None = event.get("bytes")
        return event["text"] if data is None else data

    async def write(self, message: bytes | str) -> None:
        """Sends a binary or text frame. Waits while too much is unsent.

        Raises:
            asyncio.CancelledError: the client is gone.
        """
        try:
            if isinstance(message, str):
                await self._socket.send_text(message)
            else:
                await self._socket.send_bytes(message)
        except (WebSocketDisconnect, RuntimeError):
            raise asyncio.CancelledError from None

    async def end(self, code: int = _DONE, reason: str = "", text: str = "") -> None:
        """The last words to a client that may be gone."""
        try:
            if text:
                await self._socket.send_text(text)
            await self._socket.close(code, reason)
        except (WebSocketDisconnect, RuntimeError):
            pass  # it has left before


Handler: TypeAlias = Callable[[Socket], Awaitable[None]]
"""Talks to a client until one of the two has enough."""


@dataclass(frozen=True, slots=True)
class SocketEndpoint:
    """A route of WebSockets as an ASGI application.

    Attributes:
        wire: the server's gRPC side, whose surroundings and options hold here too.
        method: the name of the call in metrics and log.
        handler: talks.
        protocol: the subprotocol that it speaks; empty for none.
    """

    wire: WireServer
    method: str
    handler: Handler
    protocol: str = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one connection."""
        connected = WebSocket(scope, receive, send)
        if not _is_from_here(connected, self.wire.options.http_cors_origins):
            text = "this origin is not among http_cors_origins"
            await connected.send_denial_response(PlainTextResponse(text, 403))
            return
        request_id = request_id_of(connected.headers.get(REQUEST_ID))
        call = Call(HTTP, self.method, "bidi_stream", request_id, peer_of(scope))
        surroundings = self.wire.surroundings
        names = names_of(scope) if surroundings.certificates else ()
        await connected.accept(
            self.protocol if self.protocol in scope["subprotocols"] else None,
            [(REQUEST_ID.encode(), request_id.encode())],
        )
        socket = Socket(connected)

        async def work(_lane: Lane) -> None:
            await self.handler(socket)

        try:
            await surroundings.run(call, _token_of(connected), names, work)
        except CarouselError as error:
            problem = to_json(problem_of(error, request_id)).decode()
            await socket.end(FAILED + error.spec.code.value, error.reason, problem)
        except asyncio.CancelledError:
            await socket.end()  # the client is gone, or the server is
        else:
            await socket.end()


def _token_of(socket: WebSocket) -> str | None:
    """What the header `authorization` has, or would have if the client were not a page."""
    if (given := socket.headers.get("authorization")) is not None:
        return given
    for protocol in socket.scope["subprotocols"]:
        if protocol.startswith(BEARER):
            text = protocol.removeprefix(BEARER)
            try:
                token = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
            except (binascii.Error, UnicodeDecodeError):
                return "Bearer "
            return f"Bearer {token}"
    return None


def _is_from_here(socket: WebSocket, allowed: tuple[str, ...]) -> bool:
    """True if no page opens the connection, or one of this server's, or one of an allowed origin.

    Browsers let any page open a WebSocket to any server. Only the server can refuse it.
    """
    origin = socket.headers.get("origin")
    if origin is None or origin in allowed or "*" in allowed:
        return True
    return urlsplit(origin).netloc == socket.headers.get("host")
