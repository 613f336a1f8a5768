"""All doors of one process: gRPC, and HTTP where it is on. They start, drain and stop together."""

from __future__ import annotations

from typing import NamedTuple

from carousel_server.core.catalog import CatalogPort
from carousel_server.core.metering import WireMetrics
from carousel_server.http import HttpServer
from carousel_server.wire import WireOptions, WireServer


class Ports(NamedTuple):
    """Where the doors listen. `http` is None where that door is off."""

    grpc: int
    http: int | None


class Doors:
    """The wire of a process, with the methods of a `WireServer`. Used on the event loop.

    Attributes:
        failed: why there is no hope: a process of its own may fail, this cannot.
    """

    failed = ""

    def __init__(self, catalog: CatalogPort, options: WireOptions, metrics: WireMetrics) -> None:
        self._wire = WireServer(catalog, options, metrics)
        self._http = None if options.http_port is None else HttpServer(self._wire)

    @property
    def ports(self) -> Ports:
        """The ports, once it listens."""
        return Ports(self._wire.port, None if self._http is None else self._http.port)

    async def start(self) -> None:
        """Listens.

        Raises:
            ListenError: an address cannot be listened on.
        """
        await self._wire.start()
        if self._http is not None:
            await self._http.start()

    async def drain(self, grace_s: float, *, hands_over: bool = False) -> None:
        """See `WireServer.drain`. The HTTP door has the same gate."""
        await self._wire.drain(grace_s, hands_over=hands_over)

    async def stop(self, grace_s: float) -> None:
        """Waits for calls until `grace_s`, then cuts them."""
        if self._http is not None:
            await self._http.stop(grace_s)
        await self._wire.stop(grace_s)
