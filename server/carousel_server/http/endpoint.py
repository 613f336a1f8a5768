"""One route of the door: its handler inside the surroundings of all calls, and the errors it answers with."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from carousel_server.core.errors import CarouselError
from carousel_server.core.metering import HTTP
from carousel_server.wire.call import REQUEST_ID, Call, request_id_of
from carousel_server.wire.lanes import Lane
from carousel_server.wire.server import WireServer

from .connections import CONNECTION, Connection, names_of, peer_of
from .problems import problem_response
from .replies import Replies, deadline_exceeded
from .requests import Incoming, read_body

Handler: TypeAlias = Callable[[Incoming, Replies], Awaitable[Response | None]]
"""Answers a request. It returns None if it has sent a stream."""

Refuse: TypeAlias = Callable[[CarouselError, str], Response]
"""The answer of an error, with the call's request id."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A route as an ASGI application.

    Attributes:
        wire: the server's gRPC side, whose surroundings and options hold here too.
        method: the name of the call in metrics and log.
        handler: answers.
        streams: whether it may answer with a stream.
        refuse: the form of its errors.
        error_event: the name of an event that has an error.
        service: the service that the call counts for; that of health needs no token.
    """

    wire: WireServer
    method: str
    handler: Handler
    streams: bool = False
    refuse: Refuse = problem_response
    service: str = HTTP
    error_event: str = "error"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        connection: Connection | None = scope.get(CONNECTION)
        if connection is None:
            await self._answer(scope, receive, send)
            return
        with connection.running():
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        request_id = request_id_of(request.headers.get(REQUEST_ID))
        kind = "server_stream" if self.streams else "unary"
        call = Call(self.service, self.method, kind, request_id, peer_of(scope))
        options = self.wire.options
        replies = Replies(send, call, self.wire.gate, options.message_timeout_s)
        surroundings = self.wire.surroundings
        names = names_of(scope) if surroundings.certificates else ()
        read = partial(read_body, receive, request.headers, options.max_message_bytes)

        async def work(lane: Lane) -> None:
            body = await lane.message(read)
            call.heard = True
            incoming = Incoming(request, body)
            try:
                async with asyncio.timeout(incoming.time_remaining()):
                    response = await self.handler(incoming, replies)
            except TimeoutError:
                raise deadline_exceeded() from None
            if response is not None:
                await replies.respond(response, scope)

        token = request.headers.get("authorization")
        try:
            await surroundings.run(call, token, names, work)
        except CarouselError as error:
            response = self.refuse(error, call.request_id)
            if replies.started:
                await replies.event(bytes(response.body), self.error_event)
                await replies.end()
            else:
                await replies.respond(response, scope)


def route(path: str, endpoint: Endpoint, verb: str) -> Route:
    """A route of one verb."""
    return Route(path, endpoint, methods=[verb])
