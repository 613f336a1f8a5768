"""What ends HTTP/2 and gRPC below the services: grpc.aio, or the native transport."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import grpc

from carousel_server.core.metering import TURNED_AWAY

from .addresses import shown
from .calls import CallInterceptor
from .messages import FRAME_SLACK_BYTES
from .native.library import NativeError, NativeLimits, load
from .native.server import NativeServer
from .options import TlsFiles, WireOptions
from .reloading import Secrets

log = logging.getLogger("carousel.wire")


_QUIET_S = 0.3
"""So long no call may come before grpc.aio's server stops. Callers and proxies try again sooner."""


class Transport(Protocol):
    """A server of gRPC handlers."""

    def add_generic_rpc_handlers(self, handlers: Sequence[Any]) -> None:
        """Adds services."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Adds methods of a service by name."""

    def listen(self, host: str, port: int) -> int:
        """Binds the address; returns the port. Raises RuntimeError or OSError."""

    async def start(self) -> None:
        """Takes connections."""

    async def stop(self, grace_s: float | None) -> None:
        """Takes nothing new, waits for calls until `grace_s`, then cuts them."""

    def turned_away(self) -> Mapping[str, int]:
        """What was refused before a call began since the last time, by `TURNED_AWAY`. Empty if unknown."""


class AioServer:
    """grpc.aio's server."""

    def __init__(
        self, options: WireOptions, interceptor: CallInterceptor, secrets: Secrets
    ) -> None:
        self._tls = options.tls is not None
        self._secrets = secrets
        self._interceptor = interceptor
        self._server = grpc.aio.server(
            interceptors=[interceptor], options=_channel_options(options)
        )
        self.add_generic_rpc_handlers = self._server.add_generic_rpc_handlers
        self.add_registered_method_handlers = self._server.add_registered_method_handlers
        self.start = self._server.start

    def listen(self, host: str, port: int) -> int:
        """See `Transport.listen`."""
        address = shown(host, port)
        if not self._tls:
            return int(self._server.add_insecure_port(address))
        return int(self._server.add_secure_port(address, self._secrets.credentials()))

    async def stop(self, grace_s: float | None) -> None:
        """See `Transport.stop`. Waits first until no new calls come, but not longer than `grace_s`.

        From the moment that it stops, gRPC answers new calls with CANCELLED and no reason, until their client
        has read that the connection closes. Before it, the handlers refuse them by name.
        """
        most_s = time.monotonic() + (grace_s or 0.0)
        while True:
            quiet_s = min(self._interceptor.last_call_s + _QUIET_S, most_s)
            if (left_s := quiet_s - time.monotonic()) <= 0:
                break
            await asyncio.sleep(left_s)
        await self._server.stop(grace_s)

    def turned_away(self) -> Mapping[str, int]:
        """Nothing: gRPC does not tell."""
        return {}


class _NativeTransport(NativeServer):
    """The native transport with the options of a wire."""

    def __init__(
        self, options: WireOptions, interceptor: CallInterceptor, secrets: Secrets
    ) -> None:
        limits = NativeLimits(
            message_bytes=options.max_message_bytes,
            calls_per_connection=options.calls_of_a_connection,
            connections=options.max_connections,
        )
        super().__init__(interceptor, limits)
        self._shared = options.shared_port
        self._told = dict.fromkeys(TURNED_AWAY, 0)
        if options.tls is not None:
            self._put_in_force(options.tls)
            secrets.renewed.append(self._put_in_force)

    def _put_in_force(self, tls: TlsFiles) -> None:
        self.use_tls(tls.cert, tls.key, tls.client_ca)

    def listen(self, host: str, port: int) -> int:
        """See `Transport.listen`."""
        return self.bind(host, port, shared=self._shared)

    def turned_away(self) -> Mapping[str, int]:
        """See `Transport.turned_away`."""
        told, now = self._told, self.counters()
        counts = (now.turned_away, now.refused_calls, now.bad_connections, now.too_many_pings)
        self._told = dict(zip(TURNED_AWAY, counts, strict=True))
        return {what: count - told[what] for what, count in self._told.items()}


class ChosenTransport(NamedTuple):
    """What a setting comes to on this machine.

    Attributes:
        name: "native" or "python".
        hint: why `auto` has not taken the native one, and what mends it; else empty.
    """

    name: str
    hint: str = ""


def chosen_transport(wanted: str) -> ChosenTransport:
    """The transport of a setting. The native one is compiled at its first use, which takes some seconds.

    Raises:
        NativeError: "native" is wanted, and there is none here.
    """
    if wanted == "python":
        return ChosenTransport("python")
    try:
        load()
    except NativeError as error:
        if wanted == "native":
            raise
        log.info("transport=python, which takes about twice the processor time a step: %s", error)
        return ChosenTransport("python", str(error))
    return ChosenTransport("native")


_TRANSPORTS: Mapping[str, Callable[[WireOptions, CallInterceptor, Secrets], Transport]] = {
    "native": _NativeTransport,
    "python": AioServer,
}


def make_transport(
    options: WireOptions, interceptor: CallInterceptor, secrets: Secrets
) -> Transport:
    """The transport that the option `transport` names. Raises NativeError where there is no native one."""
    return _TRANSPORTS[options.transport](options, interceptor, secrets)


def _channel_options(options: WireOptions) -> Sequence[tuple[str, Any]]:
    return (
        # Two servers on one port would each get half of the calls, and no session would be found;
        # front ends of one server find all.
        ("grpc.so_reuseport", int(options.shared_port)),
        ("grpc.max_receive_message_length", options.max_message_bytes + FRAME_SLACK_BYTES),
        ("grpc.max_send_message_length", -1),
        # A client of gRPC keeps further calls back until others end; one that does not is refused by gRPC.
        ("grpc.max_concurrent_streams", options.calls_of_a_connection),
        # gRPC also counts calls that have ended and are not cleaned up yet. A client that keeps to the limit
        # would have some of its calls refused.
        ("grpc.http.overload_protection", 0),
        # Each reset of a call asks for a ping, and gRPC takes little from a client that owes one.
        ("grpc.http2.ping_on_rst_stream_percent", 100),
        ("grpc.max_allowed_incoming_connections", options.max_connections),
        # For clients that connect and say nothing, and for those that have had no call for long.
        ("grpc.server_handshake_timeout_ms", 10_000),
        ("grpc.max_connection_idle_ms", 600_000),
        # Of calls that wait to be looked at, gRPC drops some at random from the first number on, without a
        # word. Those beyond max_calls are refused by name.
        ("grpc.server.max_pending_requests", 2 * options.max_calls),
        ("grpc.server.max_pending_requests_hard_limit", 4 * options.max_calls),
        # Half-open peers are silent for ever without keepalive; the ping timeout bounds the wait.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.ping_timeout_ms", 10_000),
        # Clients may ping every 5 s, also without a call, before they are told "too many pings".
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    )
