"""The ASGI application of the door: its routes, and what answers a path that is none of them."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from carousel_server.wire import WireServer
from carousel_server.wire.call import REQUEST_ID

from . import (
    generating,
    metrics,
    models,
    openai,
    openapi,
    page,
    sequences,
    sessions,
    streams,
    triton,
)
from .problems import MEDIA_TYPE
from .replies import json_response

_CORS_AGE_S = 600
_EXPOSED = (REQUEST_ID, "retry-after", "carousel-first-seq", "carousel-durable", "carousel-steps")
"""Headers of answers that pages of other sites may read."""


def application(wire: WireServer) -> Starlette:
    """The application over the methods of a wire."""
    routes: list[BaseRoute] = [
        *models.routes(wire),
        *sessions.routes(wire),
        *sequences.routes(wire),
        *generating.routes(wire),
        *openai.routes(wire),
        *streams.routes(wire),
        *triton.routes(wire),
        *openapi.routes(wire.options.server_version),
        *metrics.routes(wire),
    ]
    if wire.options.console:
        routes += page.routes()
    middleware = []
    if origins := wire.options.http_cors_origins:
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=list(origins),
                allow_methods=["GET", "POST", "DELETE"],
                allow_headers=["*"],
                expose_headers=list(_EXPOSED),
                max_age=_CORS_AGE_S,
            )
        )
    return Starlette(
        routes=routes, middleware=middleware, exception_handlers={HTTPException: _no_route}
    )


def _no_route(_request: Request, error: Exception) -> Response:
    """The answer where there is no such path, or not with this verb. It is no call, so it has no reason."""
    assert isinstance(error, HTTPException)
    problem = {"type": "about:blank", "title": error.detail, "status": error.status_code}
    response = json_response(problem, error.status_code)
    response.headers.update(error.headers or {})
    response.headers["content-type"] = MEDIA_TYPE
    return response
