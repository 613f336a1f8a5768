"""Calls of gRPC: one interceptor wraps each method, and runs it inside the surroundings of all calls.

Handlers are coroutines that raise CarouselError and write replies themselves.

gRPC reads the request of a unary method before its handler runs, for as long as the client likes. So all
methods are registered as methods that take a stream, and `_run` reads the one message of a unary call:
after the token, within the limits of calls, and with a deadline.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from carousel_server.core.errors import CarouselError

from .auth import certificate_names
from .call import ONE_MESSAGE, REQUEST_ID, Call, request_id_of
from .errors import named, status_of
from .lanes import Lane
from .messages import first_message
from .surroundings import Answered, Surroundings

_SHOWS_TEXTS_ONLY = "inference.GRPCInferenceService"
"""Clients of Triton's protocol show the text of a status, and none of its details."""

Context = grpc.aio.ServicerContext[Any, Any]
Behaviour = Callable[[Any, Context], Any]


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every method of every service of the server.

    Attributes:
        last_call_s: monotonic instant at which the last call came.
    """

    def __init__(self, surroundings: Surroundings) -> None:
        self._surroundings = surroundings
        # By path: methods that were called. There are only as many as the server has.
        self._wrapped: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        self.last_call_s = -math.inf

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The method's handler, wrapped; None where there is no such method (UNIMPLEMENTED)."""
        self.last_call_s = time.monotonic()
        method = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None
            wrapped = self._wrapped[method] = self._wrap(handler, method)
        return wrapped

    def _wrap(
        self, handler: grpc.RpcMethodHandler[Any, Any], path: str
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """A handler of the same method whose behaviour goes through `_run`.

        It takes a stream, so that gRPC calls it before it reads a message.
        """
        inner, kind, make = _form(handler)
        service, _, method = path.lstrip("/").partition("/")
        parse, timeout_s = handler.request_deserializer, self._surroundings.limits.message_timeout_s
        # A stock servicer of streams (reflection) sets its client no time of its own.
        timely = parse is not None and kind not in ONE_MESSAGE

        async def behaviour(requests: AsyncIterator[Any], context: Context) -> Any:
            metadata = dict(context.invocation_metadata() or ())
            request_id = request_id_of(metadata.get(REQUEST_ID))
            call = Call(service, method, kind, request_id, context.peer())
            if timely:
                requests = _timely(call, requests, timeout_s)
            token = metadata.get("authorization")
            return await self._run(call, token, inner, requests, context)

        return make(  # type: ignore[no-any-return]
            behaviour,
            request_deserializer=None if parse is None else _typed(parse),
            response_serializer=handler.response_serializer,
        )

    async def _run(
        self, call: Call, token: Any, behaviour: Behaviour, request: Any, context: Context
    ) -> Any:
        context.set_trailing_metadata(((REQUEST_ID, call.request_id),))

        async def work(lane: Lane) -> Any:
            try:
                message = request
                if call.kind in ONE_MESSAGE:
                    message = await self._message(lane, context, call)
                    call.heard = True
                return await _reply(behaviour, message, context)
            except (
                grpc.aio.AbortError
            ):  # a stock servicer (health, reflection) has answered by itself
                raise Answered(_name_of(context.code())) from None
            except grpc.aio.InternalError:
                # A reply could not be written: the connection broke under it.
                raise asyncio.CancelledError from None

        try:
            return await self._surroundings.run(call, token, self._names(context), work)
        except CarouselError as error:
            shown = named(error) if call.service == _SHOWS_TEXTS_ONLY else error
            await self._abort(context, shown, call)
        except Answered as answered:
            raise grpc.aio.AbortError(answered.code) from None

    def _names(self, context: Context) -> list[str]:
        """The names in the caller's certificate, where they matter."""
        wanted = self._surroundings.certificates
        return certificate_names(context.auth_context()) if wanted else []

    async def _message(self, lane: Lane, context: Context, call: Call) -> Any:
        """The request of a unary call.

        Raises:
            CarouselError: MALFORMED_MESSAGE if there is none, and as `Lane.message`.
        """
        message = None
        try:
            message = await lane.message(partial(_read, context))
        finally:
            if message is None:
                self._surroundings.abandoned(call)
        if message is None:
            raise CarouselError("MALFORMED_MESSAGE", "the call has ended without its message")
        return message

    async def _abort(self, context: Context, error: CarouselError, call: Call) -> None:
        request_id = call.request_id if error.reason == "INTERNAL" else ""
        status = rpc_status.to_status(status_of(error, request_id))
        trailers: Sequence[tuple[str, str | bytes]] = (
            *(status.trailing_metadata or ()),
            (REQUEST_ID, call.request_id),
        )
        await context.abort(status.code, status.details or "", tuple(trailers))


async def _read(context: Context) -> Any:
    """The one message of a call; None if the client ends the call without one."""
    try:
        message = await context.read()
    except grpc.aio.BaseError:  # the connection broke, or the server stops
        raise asyncio.CancelledError from None
    return None if message is grpc.aio.EOF else message


async def _reply(behaviour: Behaviour, request: Any, context: Context) -> Any:
    """Runs a handler of either form: a coroutine, or (reflection) an asynchronous generator."""
    result = behaviour(request, context)
    if not inspect.isasyncgen(result):
        return await result
    async for response in result:
        await context.write(response)
    return None


def _name_of(code: Any) -> str:
    """The canonical name of a status code, which grpc gives as a number or as an enum."""
    number = code.value[0] if isinstance(code, grpc.StatusCode) else code
    return next((known.name for known in grpc.StatusCode if known.value[0] == number), "UNKNOWN")


def _form(handler: grpc.RpcMethodHandler[Any, Any]) -> tuple[Behaviour, str, Any]:
    """A handler's behaviour, its kind, and what makes a handler that takes a stream and answers alike."""
    forms: tuple[tuple[Any, str, Any], ...] = (
        (handler.unary_unary, "unary", grpc.stream_unary_rpc_method_handler),
        (handler.unary_stream, "server_stream", grpc.stream_stream_rpc_method_handler),
        (handler.stream_unary, "client_stream", grpc.stream_unary_rpc_method_handler),
        (handler.stream_stream, "bidi_stream", grpc.stream_stream_rpc_method_handler),
    )
    return next(form for form in forms if form[0] is not None)


def _typed(parse: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """The parser of a stock servicer (health, reflection), with an error that has a name."""

    def parse_or_refuse(data: bytes) -> Any:
        try:
            return parse(data)
        except DecodeError:
            raise CarouselError("MALFORMED_MESSAGE", "the bytes are no request") from None

    return parse_or_refuse


async def _timely(call: Call, requests: AsyncIterator[Any], timeout_s: float) -> AsyncIterator[Any]:
    """The requests of a stream, of which the first must come in time."""
    requests = aiter(requests)
    request = await first_message(requests, timeout_s)
    call.heard = True
    while request is not None:
        yield request
        request = await anext(requests, None)
