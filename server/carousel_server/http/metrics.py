"""The route of the server's numbers, for the console."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.responses import Response
from starlette.routing import BaseRoute

from carousel_server.core.metering import Readings
from carousel_server.wire import WireServer
from carousel_server.wire.call import current_call

from .endpoint import Endpoint, route
from .replies import Replies, json_response
from .requests import Incoming


def routes(wire: WireServer) -> list[BaseRoute]:
    """The route."""

    async def read(_incoming: Incoming, _replies: Replies) -> Response:
        """Reads the numbers: of the whole server if it has one tenant, else the caller's own."""
        readings = await asyncio.wrap_future(wire.metrics.readings())
        alone = len(wire.surroundings.authenticator.tenants) == 1
        healthy = {engine.model.name: engine.healthy for engine in wire.catalog.engines()}
        response = json_response(
            metrics_object(readings, healthy, None if alone else current_call().tenant)
        )
        response.headers["cache-control"] = "no-store"
        return response

    return [route("/api/metrics", Endpoint(wire, "GetMetrics", read), "GET")]


def metrics_object(
    readings: Readings, healthy: dict[str, bool], tenant: str | None
) -> dict[str, Any]:
    """The readings as JSON. No tenant learns of the others from it.

    Args:
        readings: of the whole server.
        healthy: whether each model can run steps.
        tenant: the only one whose numbers are shown. None shows those of the whole server.
    """
    shown = readings.models if tenant is None else readings.tenants.get(tenant, {})
    return {
        "scope": "server" if tenant is None else "tenant",
        "at_s": readings.at_s,
        "models": {
            model: {"healthy": fit, **shown.get(model, {})} for model, fit in healthy.items()
        },
    }
