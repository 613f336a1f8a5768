"""The channel of an asyncio client and its stubs, made at first use in the loop that uses them."""

from __future__ import annotations

from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc

from carousel._home import check_gevent
from carousel_protos.v1 import carousel_pb2_grpc as services

from .calls import AsyncCalls


class AsyncServices:
    """gRPC binds an asyncio channel to the running loop, so a client at import time has none yet.

    Attributes:
        calls: make the calls of these services.
    """

    def __init__(self, calls: AsyncCalls) -> None:
        self.calls = calls
        self._channel: Any = None
        self._stubs: dict[str, Any] = {}

    @property
    def inference(self) -> Any:
        """The stub of InferenceService. Raises ClientClosedError, EventLoopError."""
        return self._stub("inference")

    @property
    def sessions(self) -> Any:
        """The stub of SessionService. Raises as `inference`."""
        return self._stub("sessions")

    @property
    def models(self) -> Any:
        """The stub of ModelService. Raises as `inference`."""
        return self._stub("models")

    @property
    def health(self) -> Any:
        """The stub of gRPC's health service. Raises as `inference`."""
        return self._stub("health")

    async def close(self) -> None:
        """Disconnects."""
        if self._channel is not None:
            await self._channel.close()

    def _stub(self, name: str) -> Any:
        self.calls.home.check_open()
        if self._channel is None:
            self._open()
        return self._stubs[name]

    def _open(self) -> None:
        check_gevent()
        options = self.calls.options
        self._channel = channel = (
            grpc.aio.insecure_channel(options.target, options.channel_options)
            if options.tls is None
            else grpc.aio.secure_channel(
                options.target, options.tls.credentials(), options.channel_options
            )
        )
        health: Any = health_pb2_grpc.HealthStub
        # All at once: gRPC ends the process where a stub is made on a channel that was closed.
        self._stubs = {
            "inference": services.InferenceServiceStub(channel),
            "sessions": services.SessionServiceStub(channel),
            "models": services.ModelServiceStub(channel),
            "health": health(channel),
        }
