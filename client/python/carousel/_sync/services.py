"""The channel of a blocking client and its stubs."""

from __future__ import annotations

from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc

from carousel._home import check_gevent
from carousel_protos.v1 import carousel_pb2_grpc as services

from .calls import Calls


class Services:
    """Makes all stubs at once: gRPC ends the process where one is made on a channel that was closed.

    Attributes:
        calls: make the calls of these services.
        inference, sessions, models, health: the stubs.
    """

    def __init__(self, calls: Calls) -> None:
        check_gevent()
        options = calls.options
        self.calls = calls
        self._channel = (
            grpc.insecure_channel(options.target, options.channel_options)
            if options.tls is None
            else grpc.secure_channel(
                options.target, options.tls.credentials(), options.channel_options
            )
        )
        self.inference = services.InferenceServiceStub(self._channel)
        self.sessions = services.SessionServiceStub(self._channel)
        self.models = services.ModelServiceStub(self._channel)
        self.health: Any = health_pb2_grpc.HealthStub(self._channel)

    def close(self) -> None:
        """Disconnects."""
        self._channel.close()
