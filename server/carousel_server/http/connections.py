"""Connections of the HTTP door: uvicorn's, with the limits that a public server needs.

A connection is closed if its request does not come whole in time, if head or body grow beyond their limits,
or if there are too many connections. The work of a request ends when its client goes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Protocol

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

CONNECTION = "carousel.connection"
"""Key of the scope under which a request has its connection."""

KEEP_ALIVE_S = 60
"""A connection without a request is closed after this time."""

MOST_HEAD_BYTES = 64 << 10
"""Most bytes of a request's line and headers, and of the trailers behind its body."""

_CERTIFICATE_NAMES = frozenset({"DNS", "URI", "email", "IP Address"})


class OpenConnection(Protocol):
    """A connection that counts among the open ones.

    Attributes:
        transport: its socket.
    """

    transport: asyncio.Transport

    def close_if_late(self, oldest_s: float) -> None:
        """Closes the connection if what it waits for began before `oldest_s`."""


@dataclass(slots=True)
class ConnectionLimits:
    """The limits of all connections of a door, and which of them are open.

    Attributes:
        most: connections at a time.
        request_s: time in which a request must arrive.
        body_bytes: most bytes behind a head, with the framing of chunks.
        turned_away: connections that were closed at once since the last look.
    """

    most: int
    request_s: float
    body_bytes: int
    open: set[OpenConnection] = field(default_factory=set)
    turned_away: int = 0

    def sweep(self) -> None:
        """Closes connections whose request is late. To be called now and then."""
        oldest_s = time.monotonic() - self.request_s
        for connection in tuple(self.open):
            connection.close_if_late(oldest_s)


class Connection(HttpToolsProtocol):
    """One connection. On the loop only."""

    def __init__(self, *args: Any, limits: ConnectionLimits, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._limits = limits
        self._task: asyncio.Task[Any] | None = None
        # Whether a body is read, or a head; since when, and how many bytes of it have come.
        self._in_body = False
        self._since_s = time.monotonic()
        self._bytes = 0
        self._fresh = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio.Protocol."""
        super().connection_made(transport)
        if len(self._limits.open) >= self._limits.most:
            self._limits.turned_away += 1
            transport.abort()
        else:
            self._limits.open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the work of the request that runs: its client is gone."""
        self._limits.open.discard(self)
        super().connection_lost(exc)
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        """Feeds the parser, within the limits of head and body."""
        self._bytes += len(data)
        super().data_received(data)
        most = self._limits.body_bytes if self._in_body else MOST_HEAD_BYTES
        if self._bytes > most and not self.transport.is_closing():
            if self._in_body or not self._idle:
                self.transport.abort()
            else:
                self.send_400_response("The head of the request is too large.")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Counts headers, so that one packet cannot bring very many."""
        super().on_header(name, value)
        if len(self.headers) > 256:
            raise ValueError("too many headers")  # the parser makes it a 400

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._begin(in_body=True)
        self._fresh = False
        self.scope[CONNECTION] = self  # type: ignore[literal-required]
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The body is whole."""
        self._begin(in_body=False)
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        """The rest of the connection is a `SocketConnection`'s."""
        self._limits.open.discard(self)
        super().handle_websocket_upgrade()

    def close_if_late(self, oldest_s: float) -> None:
        """Closes the connection if a head, or a body that no work waits for, began before `oldest_s`."""
        waits = self._fresh or self._in_body or self._bytes > 0
        if waits and self._idle and self._since_s < oldest_s and not self.transport.is_closing():
            self.transport.abort()

    @contextmanager
    def running(self) -> Iterator[None]:
        """While the running task answers a request. It is cancelled if the client goes, and ends quietly."""
        self._task = asyncio.current_task()
        try:
            yield
        except asyncio.CancelledError:
            if not self.transport.is_closing():
                self.transport.abort()
        finally:
            self._task = None

    @property
    def _idle(self) -> bool:
        """True if no request is being answered."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is None or cycle.response_complete

    def _begin(self, *, in_body: bool) -> None:
        self._in_body = in_body
        self._since_s = time.monotonic()
        self._bytes = 0


class SocketConnection(WebSocketsSansIOProtocol):
    """A connection that has become a WebSocket. On the loop only."""

    def __init__(self, *args: Any, limits: ConnectionLimits, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._limits = limits

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        super().connection_made(transport)
        self._limits.open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._limits.open.discard(self)
        super().connection_lost(exc)

    def handle_connect(self, event: Any) -> None:
        """The head is whole. The application runs in a task, which has not begun yet."""
        super().handle_connect(event)
        if self.response.status_code == HTTPStatus.SWITCHING_PROTOCOLS:
            self.scope[CONNECTION] = self  # type: ignore[literal-required]

    def shutdown(self) -> None:
        """Does nothing: the gate ends the stream with a reason, and `HttpServer.stop` what is left."""

    def close_if_late(self, oldest_s: float) -> None:
        """Does nothing: the stream has a time for its first message, and pings find out who is gone."""


def peer_of(scope: Scope) -> str:
    """The client's address, as gRPC writes it."""
    host, port = scope.get("client") or ("", 0)
    return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"


def names_of(scope: Scope) -> list[str]:
    """The subject alternative names and the common name of the caller's certificate."""
    connection: OpenConnection | None = scope.get(CONNECTION)
    certificate = connection and connection.transport.get_extra_info("peercert")
    if not certificate:
        return []
    names = [v for kind, v in certificate.get("subjectAltName", ()) if kind in _CERTIFICATE_NAMES]
    for part in certificate.get("subject", ()):
        names += [value for key, value in part if key == "commonName"]
    return names
