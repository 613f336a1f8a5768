"""The gRPC server: one event loop, one port, started and stopped in three verbs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from carousel_server.core.catalog import CatalogPort
from carousel_server.core.metering import WireMetrics

from .addresses import check_address, listen_error, shown
from .auth import Authenticator
from .call_limits import CallLimits
from .calls import CallInterceptor
from .gate import Gate
from .health import Health
from .options import WireOptions
from .reloading import Secrets
from .services import SERVICE_NAMES, service_handlers
from .triton import triton_handler

_SAMPLE_INTERVAL_S = 0.25
_REREAD_INTERVAL_S = 1.0
_FRAME_SLACK_BYTES = 1 << 20
"""How far grpc's own size limit lies above ours, so that ours, which has a name, is met first."""


class WireServer:
    """Serves a catalog of engines. Made and used on one event loop.

    Life: `start`, then `drain` (nothing new begins, health says NOT_SERVING), then `stop`.
    """

    failed = ""
    """Why there is no hope: a process of its own may fail, this cannot."""

    def __init__(self, catalog: CatalogPort, options: WireOptions, metrics: WireMetrics) -> None:
        self._options = options
        self._metrics = metrics
        self.gate = Gate(options, metrics, catalog.quotas)
        self._health = Health(catalog, self.gate, options.refused_models)
        self._limits = CallLimits(options, metrics)
        authenticator = Authenticator(options.tokens, options.certificates)
        self._secrets = Secrets(options, authenticator, metrics)
        self._interceptor = CallInterceptor(authenticator, self._limits, metrics, catalog.quotas)
        self._server = grpc.aio.server(
            interceptors=[self._interceptor],
            options=_channel_options(options),
        )
        self._server.add_generic_rpc_handlers(service_handlers(catalog, options, self.gate))
        if options.triton:
            self._server.add_generic_rpc_handlers([triton_handler(catalog, options, self.gate)])
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if options.reflection:
            names = (*SERVICE_NAMES, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name)
            reflection.enable_server_reflection((*names, reflection.SERVICE_NAME), self._server)
        self._sampler: asyncio.Future[Any] | None = None
        self.port = 0

    async def start(self) -> None:
        """Listens.

        Raises:
            ListenError: another process has the port, or the address is not this machine's.
        """
        host, port = self._options.host, self._options.port
        if not self._options.shared_port:
            check_address(host, port)  # grpc's own error does not say why
        address = shown(host, port)
        try:
            if self._options.tls is None:
                self.port = self._server.add_insecure_port(address)
            else:
                self.port = self._server.add_secure_port(address, self._secrets.credentials())
        except RuntimeError as error:
            raise listen_error(host, port, OSError(str(error))) from error
        await self._server.start()
        self._limits.port = self.port
        self._sampler = asyncio.gather(self._sample(), self._reread())

    async def drain(self, grace_s: float) -> None:
        """Lets nothing new begin and tells everybody, once; what was accepted goes on."""
        if not self.gate.draining:
            self.gate.drain(grace_s)
        await self._health.refresh()

    async def stop(self, grace_s: float) -> None:
        """Ends the streams after what they have ready, waits for calls until `grace_s`, then cuts."""
        self.gate.finish()
        await self._health.close()
        await self._server.stop(grace_s)
        if self._sampler is not None:
            self._sampler.cancel()
            await asyncio.gather(self._sampler, return_exceptions=True)
            self._sampler = None

    async def _sample(self) -> None:
        """Measures the loop's lag, ends calls that are late, and keeps watchers of health up to date."""
        while True:
            due_s = time.monotonic() + _SAMPLE_INTERVAL_S
            await asyncio.sleep(_SAMPLE_INTERVAL_S)
            self._metrics.loop_lag(max(0.0, time.monotonic() - due_s))
            self._limits.sweep()
            await self._health.refresh()

    async def _reread(self) -> None:
        """Puts changed tokens and certificates in force."""
        while True:
            await asyncio.sleep(_REREAD_INTERVAL_S)
            await self._secrets.refresh()


def _channel_options(options: WireOptions) -> Sequence[tuple[str, Any]]:
    return (
        # Two servers on one port would each get half of the calls, and no session would be found;
        # front ends of one server find all.
        ("grpc.so_reuseport", int(options.shared_port)),
        ("grpc.max_receive_message_length", options.max_message_bytes + _FRAME_SLACK_BYTES),
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
