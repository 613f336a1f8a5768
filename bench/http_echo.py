"""`python -m bench.http_echo`: the same stack as the HTTP door's, which gives back what it gets.

Starlette on uvicorn, with httptools and uvloop. Prints its port. It parses and writes JSON as the door does.
"""

from __future__ import annotations

import json
import socket

import uvicorn
from pydantic import BaseModel
from pydantic_core import to_json
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .loops import run
from .models import STEPPED

PATH = f"/api/models/{STEPPED}/infer"


class Sequence(BaseModel):
    """Rows of numbers."""

    inputs: list[list[float]]


async def echo(request: Request) -> Response:
    """Gives back rows: JSON as JSON, bytes as bytes."""
    body = await request.body()
    if request.headers["content-type"] != "application/json":
        return Response(body, media_type="application/octet-stream")
    rows = Sequence.model_validate_json(body).inputs
    answer = to_json({"steps": len(rows), "outputs": {"y": rows}})
    return Response(answer, media_type="application/json")


async def main() -> None:
    """Serves on a free port until killed."""
    app = Starlette(routes=[Route(PATH, echo, methods=["POST"])])
    config = uvicorn.Config(
        app, http="httptools", ws="none", lifespan="off", log_config=None, access_log=False,
        server_header=False, proxy_headers=False,
    )  # fmt: skip
    listening = socket.create_server(("127.0.0.1", 0))
    print(json.dumps({"port": listening.getsockname()[1]}), flush=True)
    await uvicorn.Server(config).serve([listening])


if __name__ == "__main__":
    run(main())
