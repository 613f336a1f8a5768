"""What surrounds every call: errors outermost, then request id, metrics, access log and tenant.

One interceptor wraps each method once per call; the order of the surroundings is the order of the lines
in `CallInterceptor._run`. Handlers are coroutines that raise CarouselError and write replies themselves.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_status import rpc_status

from carousel_server.core.errors import CarouselError
from carousel_server.core.metering import WireMetrics

from .auth import Doorkeeper
from .errors import status_of

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
    tenant: str = ""
    reason: str = ""


_current: ContextVar[Call] = ContextVar("carousel_call")


def current_call() -> Call:
    """The call whose handler is running; grpc runs each call in a task of its own."""
    return _current.get()


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every method of every service of the server."""

    def __init__(self, doorkeeper: Doorkeeper, metrics: WireMetrics) -> None:
        self._doorkeeper = doorkeeper
        self._metrics = metrics

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The method's handler, wrapped; None where there is no such method (UNIMPLEMENTED)."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        service, _, method = handler_call_details.method.lstrip("/").partition("/")
        metadata = dict(handler_call_details.invocation_metadata or ())
        request_id = _request_id(metadata.get(REQUEST_ID))
        authorization = metadata.get("authorization")

        async def run(behaviour: Behaviour, kind: str, request: Any, context: Context) -> Any:
            call = Call(service, method, kind, request_id)
            return await self._run(call, authorization, behaviour, request, context)

        return _wrap(handler, run)

    async def _run(
        self, call: Call, token: Any, behaviour: Behaviour, request: Any, context: Context
    ) -> Any:
        _current.set(call)
        started_s = time.perf_counter()
        code = "OK"
        self._metrics.started(call.service, call.method, call.kind)
        context.set_trailing_metadata(((REQUEST_ID, call.request_id),))
        try:
            call.tenant = self._doorkeeper.tenant(call.service, token)
            return await _reply(behaviour, request, context)
        except CarouselError as error:
            if error.reason == "INTERNAL":  # the log has what went wrong, but not in whose call
                log.exception(
                    "%s/%s failed, request %s", call.service, call.method, call.request_id
                )
                error = _defect(call)
            code, call.reason = error.spec.code.name, error.reason
            await self._abort(context, error, call)
        except asyncio.CancelledError:
            code = "CANCELLED"
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

    async def _abort(self, context: Context, error: CarouselError, call: Call) -> None:
        self._metrics.refused(error.reason)
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
    level = logging.DEBUG if code == "OK" and name in _FREQUENT else logging.INFO
    if access.isEnabledFor(level):
        extra = {
            "service": call.service,
            "method": call.method,
            "code": code,
            "reason": call.reason,
            "tenant": call.tenant,
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


_Run = Callable[[Behaviour, str, Any, Context], Awaitable[Any]]


def _wrap(handler: grpc.RpcMethodHandler[Any, Any], run: _Run) -> grpc.RpcMethodHandler[Any, Any]:
    """A handler of the same kind whose behaviour goes through `run`."""
    forms: tuple[tuple[Any, str, Any], ...] = (
        (handler.unary_unary, "unary", grpc.unary_unary_rpc_method_handler),
        (handler.unary_stream, "server_stream", grpc.unary_stream_rpc_method_handler),
        (handler.stream_unary, "client_stream", grpc.stream_unary_rpc_method_handler),
        (handler.stream_stream, "bidi_stream", grpc.stream_stream_rpc_method_handler),
    )
    inner, kind, make = next(form for form in forms if form[0] is not None)

    async def behaviour(request: Any | AsyncIterator[Any], context: Context) -> Any:
        return await run(inner, kind, request, context)

    return make(  # type: ignore[no-any-return]
        behaviour,
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )
