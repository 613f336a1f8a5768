"""Answers of one call: whole, or as a stream of events."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from pydantic_core import to_json
from starlette.responses import Response
from starlette.types import Scope, Send

from carousel_server.core.errors import CarouselError
from carousel_server.wire.call import REQUEST_ID, Call
from carousel_server.wire.gate import Gate

from .requests import JSON

EVENTS = "text/event-stream"


def json_response(content: Any, status: int = 200) -> Response:
    """An object as JSON."""
    return Response(to_json(content), status, media_type=JSON)


class Replies:
    """Sends what a call answers. Each has the request id, and asks to close the connection in a drain."""

    def __init__(self, send: Send, call: Call, gate: Gate, write_within_s: float) -> None:
        """`write_within_s`: a client that takes no byte of a stream for so long is cut off."""
        self._send = send
        self._call = call
        self._gate = gate
        self._write_within_s = write_within_s
        self.started = False

    async def respond(self, response: Response, scope: Scope) -> None:
        """Sends a whole answer."""
        response.headers.update(self._headers())
        self.started = True
        await response(scope, _no_more, self._send)

    async def event(self, data: bytes, name: str = "") -> None:
        """Sends an event of a stream. The first one begins the answer."""
        if not self.started:
            self.started = True
            headers = {"content-type": EVENTS, "cache-control": "no-store", **self._headers()}
            headers["x-accel-buffering"] = "no"  # else nginx holds events back
            raw = [(key.encode(), value.encode()) for key, value in headers.items()]
            await self._send({"type": "http.response.start", "status": 200, "headers": raw})
        prefix = b"event: %s\n" % name.encode() if name else b""
        await self._write(b"%sdata: %s\n\n" % (prefix, data), more=True)

    async def end(self) -> None:
        """Ends a stream of events."""
        await self._write(b"", more=False)

    async def _write(self, body: bytes, *, more: bool) -> None:
        try:
            async with asyncio.timeout(self._write_within_s):
                await self._send({"type": "http.response.body", "body": body, "more_body": more})
        except TimeoutError:  # it does not read; the generation ends with the call
            raise asyncio.CancelledError from None

    def _headers(self) -> Mapping[str, str]:
        headers = {REQUEST_ID: self._call.request_id}
        if self._gate.draining:
            headers["connection"] = "close"
        return headers


async def _no_more() -> Any:
    raise AssertionError("a whole answer reads nothing")


def deadline_exceeded() -> CarouselError:
    """What a caller gets whose own time is over."""
    return CarouselError(
        "DEADLINE_EXCEEDED", "the caller's time was over before the call had its answer"
    )
