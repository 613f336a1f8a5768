"""The gRPC server: one event loop, one port, started and stopped in three verbs."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from grpc_reflection.v1alpha._async import ReflectionServicer

from carousel_server.core.catalog import CatalogPort
from carousel_server.core.metering import WireMetrics

from .addresses import check_address, listen_error
from .auth import Authenticator
from .call_limits import CallLimits
from .calls import CallInterceptor
from .gate import Gate
from .health import Health
from .methods import Methods
from .options import WireOptions
from .reloading import Secrets
from .services import SERVICE_NAMES, service_handlers
from .surroundings import Surroundings
from .transport import make_transport
from .triton import TritonMethods, triton_handler

_SAMPLE_INTERVAL_S = 0.25
_REREAD_INTERVAL_S = 1.0


class WireServer:
    """Serves a catalog of engines. Made and used on one event loop.

    Life: `start`, then `drain` (nothing new begins, health says NOT_SERVING), then `stop`.

    Attributes:
        catalog, options, metrics: what it was made with.
        gate: whether anything new may begin.
        surroundings, methods, secrets: what other transports of the same server share with gRPC.
        port: where it listens; 0 before.
    """

    failed = ""
    """Why there is no hope: a process of its own may fail, this cannot."""

    def __init__(self, catalog: CatalogPort, options: WireOptions, metrics: WireMetrics) -> None:
        self.catalog = catalog
        self.options = options
        self.metrics = metrics
        self.gate = Gate(options, metrics, catalog.quotas)
        self._health = Health(catalog, self.gate, options.refused_models)
        self._limits = CallLimits(options, metrics)
        authenticator = Authenticator(options.tokens, options.certificates)
        self.secrets = Secrets(options, authenticator, metrics)
        self.surroundings = Surroundings(authenticator, self._limits, metrics, catalog.quotas)
        self.methods = Methods.of(catalog, options, self.gate)
        self._interceptor = CallInterceptor(self.surroundings)
        self._server = make_transport(options, self._interceptor, self.secrets)
        handlers = service_handlers(options, self.methods)
        self._server.add_generic_rpc_handlers(handlers)
        self.triton = TritonMethods.of(catalog, options, self.gate) if options.triton else None
        if self.triton is not None:
            handler = triton_handler(self.triton, options.max_message_bytes)
            self._server.add_generic_rpc_handlers([handler])
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)  # type: ignore[arg-type]
        if options.reflection:
            names = (*SERVICE_NAMES, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name)
            servicer = ReflectionServicer((*names, reflection.SERVICE_NAME))
            reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, self._server)  # type: ignore[no-untyped-call]
        self._sampler: asyncio.Future[Any] | None = None
        self.port = 0

    async def start(self) -> None:
        """Listens.

        Raises:
            ListenError: another process has the port, or the address is not this machine's.
        """
        host, port = self.options.host, self.options.port
        if not self.options.shared_port:
            check_address(host, port)  # the transport's own error does not say why
        try:
            self.port = self._server.listen(host, port)
        except (RuntimeError, OSError) as error:
            raise listen_error(host, port, OSError(str(error))) from error
        await self._server.start()
        self._limits.port = self.port
        self._sampler = asyncio.gather(self._sample(), self._reread())

    async def drain(self, grace_s: float, *, hands_over: bool = False) -> None:
        """Lets nothing new begin and tells everybody, once; what was accepted goes on.

        With `hands_over`, clients that follow moves step their sessions until the next call without it.
        """
        self.gate.drain(grace_s, hands_over=hands_over)
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
            self.metrics.loop_lag(max(0.0, time.monotonic() - due_s))
            self._limits.sweep()
            for what, count in self._server.turned_away().items():
                if count:
                    self.metrics.turned_away(what, count)
            await self._health.refresh()

    async def _reread(self) -> None:
        """Puts changed tokens and certificates in force."""
        while True:
            await asyncio.sleep(_REREAD_INTERVAL_S)
            await self.secrets.refresh()
