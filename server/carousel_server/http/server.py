"""The HTTP server: uvicorn on the server's own event loop, started and stopped as the wire is."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import uvicorn

from carousel_server.wire import ListenError, WireServer
from carousel_server.wire.messages import FRAME_SLACK_BYTES

from .app import application
from .connections import KEEP_ALIVE_S, Connection, ConnectionLimits, SocketConnection
from .listening import SETTING, listening_sockets
from .tls import RenewedContext

_SWEEP_S = 0.5
_BODY_SLACK_BYTES = 1 << 20
"""For the framing of chunks, and for what was on its way when a body was refused."""


_PING_S = 20.0
"""A WebSocket is asked so often whether its client is there, and has so long to answer."""


class HttpServer:
    """The HTTP door of a wire. Used on the wire's loop.

    It uses the gate, the limits, the tenants and the methods of its wire. So a drain of the wire is one of
    this door.

    Attributes:
        port: where it listens; 0 before.
    """

    def __init__(self, wire: WireServer) -> None:
        options = wire.options
        self._wire = wire
        self._limits = ConnectionLimits(
            options.max_connections,
            options.message_timeout_s,
            2 * options.max_message_bytes + _BODY_SLACK_BYTES,
        )
        config = uvicorn.Config(
            cast("Any", application(wire)),
            http=cast("Any", partial(Connection, limits=self._limits)),
            ws=cast("Any", partial(SocketConnection, limits=self._limits)),
            ws_max_size=options.max_message_bytes + FRAME_SLACK_BYTES,
            ws_per_message_deflate=False,
            ws_ping_interval=_PING_S,
            ws_ping_timeout=_PING_S,
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            interface="asgi3",
            workers=1,
            timeout_keep_alive=KEEP_ALIVE_S,
        )
        config.load()
        if options.tls is not None:
            context = RenewedContext.of(options.tls)
            wire.secrets.renewed.append(context.renew)
            config.ssl = context
        self._server = _Uvicorn(config)
        self._tasks: list[asyncio.Task[None]] = []
        self.port = 0

    async def start(self) -> None:
        """Listens.

        Raises:
            ListenError: the address cannot be listened on.
        """
        options = self._wire.options
        assert options.http_port is not None, "the door is off"
        sockets = listening_sockets(options.host, options.http_port, shared=options.shared_port)
        serving = asyncio.create_task(self._server.serve(sockets))
        self._tasks = [serving, asyncio.create_task(self._sweep())]
        ready = asyncio.create_task(self._server.listens.wait())
        await asyncio.wait([serving, ready], return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            ready.cancel()
            serving.result()
            raise ListenError(f"the HTTP door ended before it listened\nchoose another --{SETTING}")
        self.port = int(sockets[0].getsockname()[1])

    async def stop(self, grace_s: float) -> None:
        """Takes no connections, waits for calls until `grace_s`, then cuts them."""
        if not self._tasks:
            return
        self._wire.gate.finish()  # the streams end by name, so uvicorn need not cut them
        serving, sweeping = self._tasks
        sweeping.cancel()
        self._server.config.timeout_graceful_shutdown = max(1, round(grace_s))
        self._server.should_exit = True
        await asyncio.wait([serving], timeout=grace_s)
        for connection in tuple(self._limits.open):
            connection.transport.abort()
        self._server.force_exit = True
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    async def _sweep(self) -> None:
        """Closes connections that are late, and counts those that were turned away."""
        while True:
            await asyncio.sleep(_SWEEP_S)
            self._limits.sweep()
            turned_away, self._limits.turned_away = self._limits.turned_away, 0
            if turned_away:
                self._wire.metrics.turned_away("connections", turned_away)


class _Uvicorn(uvicorn.Server):
    """uvicorn's server, which leaves the signals to ours and says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listens = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Captures none."""
        yield

    async def startup(self, sockets: Any = None) -> None:
        """See uvicorn.Server."""
        await super().startup(sockets)
        self.listens.set()
