"""The channel of an asyncio client to one server, and its stubs."""

from __future__ import annotations

from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc

from carousel._home import check_gevent
from carousel._options import Options
from carousel_protos.v1 import carousel_pb2_grpc as services


class AsyncServices:
    """Made in the loop that uses it, to which gRPC binds the channel.

    All stubs are made at once: gRPC ends the process where one is made on a channel that was closed.

    Attributes:
        inference, sessions, models, health: the stubs.
    """

    def __init__(self, options: Options, address: str) -> None:
        check_gevent()
        channel_options = options.channel_options(address)
        self._channel = (
            grpc.aio.insecure_channel(address, channel_options)
            if options.tls is None
            else grpc.aio.secure_channel(address, options.tls.credentials(), channel_options)
        )
        self.inference: Any = services.InferenceServiceStub(self._channel)
        self.sessions: Any = services.SessionServiceStub(self._channel)
        self.models: Any = services.ModelServiceStub(self._channel)
        health: Any = health_pb2_grpc.HealthStub
        self.health: Any = health(self._channel)

    async def close(self) -> None:
        """Disconnects."""
        await self._channel.close()
