"""grpc.health.v1, per model, and truthful: it says what the engines say at this moment."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc

from carousel_server.core.catalog import CatalogPort

from .calls import Context
from .gate import Gate

SERVICES = ("", "carousel.v1.InferenceService")
"""Names that stand for the server as a whole: they serve while every model does that was loaded."""

MODEL_PREFIX = "model/"
"""`model/<name>` stands for one model."""

STORE = "carousel.store"
"""The store, where there is one. Sessions that need none are served without it."""

_MOST_WATCHERS = 256

_Response = health_pb2.HealthCheckResponse


class Health(health_pb2_grpc.HealthServicer):
    """The health service. `refresh` must be called now and then, so that watchers hear of changes."""

    def __init__(
        self, catalog: CatalogPort, gate: Gate, refused_models: Sequence[str] = ()
    ) -> None:
        self._catalog = catalog
        self._gate = gate
        # They do not make the server unhealthy: the other models are to get their calls.
        self._refused = {MODEL_PREFIX + name: int(_Response.NOT_SERVING) for name in refused_models}
        self._changed = asyncio.Condition()
        self._known = self._statuses()
        self._watchers = 0
        self._closed = False

    async def Check(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        """The status of one service now; NOT_FOUND for a name that is none."""
        status = self._statuses().get(request.service)
        if status is None:
            await context.abort(StatusCode.NOT_FOUND, "unknown service")
        return _Response(status=status)

    async def List(  # noqa: N802
        self, request: Any, context: Context
    ) -> Any:
        """The status of every service now."""
        del request, context
        statuses = {name: _Response(status=status) for name, status in self._statuses().items()}
        return health_pb2.HealthListResponse(statuses=statuses)  # type: ignore[attr-defined]

    async def Watch(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> None:
        """The status of one service now, and again whenever it changes."""
        if self._watchers >= _MOST_WATCHERS:
            # Anybody may watch, also without a token: they must not use up the calls of the others.
            await context.abort(StatusCode.RESOURCE_EXHAUSTED, "too many watchers")
        self._watchers += 1
        try:
            await self._watch(request.service, context)
        finally:
            self._watchers -= 1

    async def _watch(self, service: str, context: Context) -> None:
        told = -1
        while not self._closed:
            status = self._known.get(service, _Response.SERVICE_UNKNOWN)
            if status != told:
                told = status
                await context.write(_Response(status=status))
                continue
            async with self._changed:
                unchanged = self._known.get(service, _Response.SERVICE_UNKNOWN) == told
                if unchanged and not self._closed:
                    await self._changed.wait()

    async def close(self) -> None:
        """Ends every watch, so that the server need not wait for them."""
        self._closed = True
        async with self._changed:
            self._changed.notify_all()

    async def refresh(self) -> None:
        """Looks at the engines, and wakes the watchers if something has changed."""
        statuses = self._statuses()
        if statuses != self._known:
            async with self._changed:
                self._known = statuses
                self._changed.notify_all()

    def _statuses(self) -> dict[str, int]:
        models = {
            MODEL_PREFIX + engine.model.name: self._status(engine.healthy)
            for engine in self._catalog.engines()
        }
        everything = self._status(all(s == _Response.SERVING for s in models.values()))
        statuses = dict.fromkeys(SERVICES, everything) | self._refused | models
        if (fault := self._catalog.store_fault) is not None:
            statuses[STORE] = self._status(not fault)
        return statuses

    def _status(self, healthy: bool) -> int:
        serving = healthy and not self._gate.draining
        return _Response.SERVING if serving else _Response.NOT_SERVING
