"""What surrounds every call: errors outermost, then request id, metrics, access log and tenant.

One interceptor wraps each method once per call; the order of the surroundings is the order of the lines
in `CallInterceptor._run`. Handlers are coroutines that raise CarouselError and write replies themselves.

gRPC reads the request of a unary method before its handler runs, for as long as the client likes. So all
methods are registered as methods that take a stream, and `_run` reads the one message of a unary call:
after the token, within the limits of calls, and with a deadline.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import os
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from carousel_server.core.errors import CarouselError
from carousel_server.core.metering import WireMetrics
from carousel_server.core.quotas import QuotaPort

from .auth import Authenticator, certificate_names
from .call_limits import AT_THE_DOOR, CallLimits
from .errors import count_refusal, named, status_of
from .lanes import Lane
from .messages import first_message
from .tenants import count_call

REQUEST_ID = "x-request-id"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
"""No blanks and no quotes: in a text log an id must not look like a fact of its own."""

_FREQUENT = frozenset(
    {
        "grpc.health.v1.Health/Check",
        "carousel.v1.InferenceService/Infer",
        "carousel.v1.InferenceService/Step",
        "inference.GRPCInferenceService/ModelInfer",
        "inference.GRPCInferenceService/ServerLive",
        "inference.GRPCInferenceService/ServerReady",
    }
)
"""Logged at debug when they go well: probes come all day, steps and sequences by the thousand."""

_SHOWS_TEXTS_ONLY = "inference.GRPCInferenceService"
"""Clients of Triton's protocol show the text of a status, and none of its details."""

_ONE_MESSAGE = frozenset({"unary", "server_stream"})
"""Kinds of methods whose request is one message."""

_ABANDONED = "ABANDONED"
"""In the log: the client ended the call before its message was read."""

_WORDLESS = frozenset({_ABANDONED, "MALFORMED_MESSAGE"})
"""How a call ends whose client sends nothing at all, or breaks the connection."""

_TOOLS = ("grpc.health.", "grpc.reflection.")
"""Services that no quota counts: probes must reach them."""

log = logging.getLogger("carousel.wire")
access = logging.getLogger("carousel.access")

Context = grpc.aio.ServicerContext[Any, Any]
Behaviour = Callable[[Any, Context], Any]


@dataclass(slots=True)
class Call:
    """One call: who asks for what, for its handler and for the log."""

    service: str
    method: str
    kind: str
    request_id: str
    peer: str = ""
    tenant: str = ""
    reason: str = ""
    heard: bool = False
    """True once a message of the client has come; streams say so themselves."""


_current: ContextVar[Call] = ContextVar("carousel_call")


def current_call() -> Call:
    """The call whose handler is running; grpc runs each call in a task of its own."""
    return _current.get()


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every method of every service of the server.

    Attributes:
        last_call_s: monotonic instant at which the last call came.
    """

    def __init__(
        self,
        authenticator: Authenticator,
        limits: CallLimits,
        metrics: WireMetrics,
        quotas: QuotaPort,
    ) -> None:
        self._authenticator = authenticator
        self._limits = limits
        self._metrics = metrics
        self._quotas = quotas
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
        parse, timeout_s = handler.request_deserializer, self._limits.message_timeout_s
        # A stock servicer of streams (reflection) sets its client no time of its own.
        timely = parse is not None and kind not in _ONE_MESSAGE

        async def behaviour(requests: AsyncIterator[Any], context: Context) -> Any:
            metadata = dict(context.invocation_metadata() or ())
            request_id = _request_id(metadata.get(REQUEST_ID))
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
        _current.set(call)
        started_s = time.perf_counter()
        code = "OK"
        self._metrics.started(call.service, call.method, call.kind)
        context.set_trailing_metadata(((REQUEST_ID, call.request_id),))
        try:
            names = self._names(context)
            call.tenant = self._authenticator.tenant(call.service, token, names)
            lane = self._limits.lane(call.service)
            lane.enter()
            try:
                if not call.service.startswith(_TOOLS):
                    await count_call(self._quotas, call.tenant)
                if call.kind in _ONE_MESSAGE:
                    request = await self._message(lane, context, call)
                    call.heard = True
                return await _reply(behaviour, request, context)
            finally:
                lane.leave()
        except CarouselError as error:
            if error.reason == "INTERNAL":  # the log has what went wrong, but not in whose call
                log.exception(
                    "%s/%s failed, request %s", call.service, call.method, call.request_id
                )
                error = _defect(call)
            if call.service == _SHOWS_TEXTS_ONLY:
                error = named(error)
            code, call.reason = error.spec.code.name, error.reason
            self._limits.refused(error, call.peer)
            await self._abort(context, error, call)
        except asyncio.CancelledError:
            code = "CANCELLED"
            self._cancelled(call)
            raise
        except grpc.aio.AbortError:  # a stock servicer (health, reflection) has answered by itself
            code = _name_of(context.code())
            raise
        except (
            grpc.aio.InternalError
        ):  # a reply could not be written: the connection broke under it
            code = "CANCELLED"
            raise asyncio.CancelledError from None
        except Exception:
            log.exception("%s/%s failed, request %s", call.service, call.method, call.request_id)
            defect = _defect(call)
            code, call.reason = defect.spec.code.name, defect.reason
            await self._abort(context, defect, call)
        finally:
            seconds = time.perf_counter() - started_s
            self._metrics.handled(call.service, call.method, call.kind, code, seconds)
            _log_access(call, code, seconds)

    def _names(self, context: Context) -> list[str]:
        """The names in the caller's certificate, where they matter."""
        wanted = self._authenticator.certificates
        return certificate_names(context.auth_context()) if wanted else []

    async def _message(self, lane: Lane, context: Context, call: Call) -> Any:
        """The request of a unary call.

        Raises:
            CarouselError: MALFORMED_MESSAGE if there is none, and as `Lane.message`.
        """
        message = None
        try:
            message = await lane.message(context)
        finally:
            if message is None:
                self._abandoned(call)
        if message is None:
            raise CarouselError("MALFORMED_MESSAGE", "the call has ended without its message")
        return message

    def _cancelled(self, call: Call) -> None:
        """The client has ended a call before it was answered; `_message` sees to those without one."""
        if not call.heard and call.kind not in _ONE_MESSAGE:
            self._abandoned(call)

    def _abandoned(self, call: Call) -> None:
        """The client has ended a call before its first message came."""
        call.reason = _ABANDONED
        self._limits.abandoned(call.peer)

    async def _abort(self, context: Context, error: CarouselError, call: Call) -> None:
        count_refusal(self._metrics, error)
        request_id = call.request_id if error.reason == "INTERNAL" else ""
        status = rpc_status.to_status(status_of(error, request_id))
        trailers: Sequence[tuple[str, str | bytes]] = (
            *(status.trailing_metadata or ()),
            (REQUEST_ID, call.request_id),
        )
        await context.abort(status.code, status.details or "", tuple(trailers))


def _defect(call: Call) -> CarouselError:
    return CarouselError("INTERNAL", f"the server failed on request {call.request_id}")


async def _reply(behaviour: Behaviour, request: Any, context: Context) -> Any:
    """Runs a handler of either form: a coroutine, or (reflection) an asynchronous generator."""
    result = behaviour(request, context)
    if not inspect.isasyncgen(result):
        return await result
    async for response in result:
        await context.write(response)
    return None


def _log_access(call: Call, code: str, seconds: float) -> None:
    name = f"{call.service}/{call.method}"
    quiet = code == "OK" and name in _FREQUENT
    # A flood must not fill the disk: CallLimits writes a line now and then for all of these.
    quiet = quiet or call.reason in AT_THE_DOOR or (not call.heard and call.reason in _WORDLESS)
    level = logging.DEBUG if quiet else logging.INFO
    if access.isEnabledFor(level):
        extra = {
            "service": call.service,
            "method": call.method,
            "code": code,
            "reason": call.reason,
            "tenant": call.tenant,
            "peer": call.peer,
            "request_id": call.request_id,
            "seconds": round(seconds, 6),
        }
        access.log(level, "%s %s", name, call.reason or code, extra=extra)


def _request_id(given: Any) -> str:
    """The caller's own id if it is fit for a log line, else a new one."""
    if isinstance(given, str) and _REQUEST_ID.fullmatch(given):
        return given
    return os.urandom(16).hex()


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
