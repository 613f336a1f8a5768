"""Makes the SDK's exception for a failed gRPC call of either API."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from ._core.faults import BASE_OF_CODE, error_of
from ._error_bases import (
    CarouselError,
    ClientClosedError,
    ClientSideError,
    ConnectionLostError,
    NotFoundError,
    ProtocolViolationError,
    RefusedError,
    ReplyTimeoutError,
    ServerFaultError,
    ServerUnreachableError,
)
from ._errors import MessageTooLargeError

REQUEST_ID = "x-request-id"

PLAIN: dict[grpc.StatusCode, type[CarouselError]] = {
    grpc.StatusCode.UNAVAILABLE: ServerUnreachableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: ReplyTimeoutError,
    grpc.StatusCode.CANCELLED: ClientClosedError,
    grpc.StatusCode.UNIMPLEMENTED: ProtocolViolationError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
}
"""The meaning of a status without details, which is from gRPC and not from a Carousel server."""

_CANCELLED_HERE = ("Channel closed", "Locally cancelled")
"""How gRPC's text begins if this process has cancelled the call. Else a server or a proxy has cut it."""

_TOO_LARGE = "larger than max"
"""Part of gRPC's text for a message beyond its limit, the only refusal for which a retry is useless."""

LOST = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.CANCELLED,
}
"""Codes of gRPC for a stream whose connection broke. They depend on which side noticed it, and when."""


def error_of_call(error: Any, *, on_stream: bool | None = None) -> CarouselError:
    """The exception for a call that failed.

    `on_stream`: for a stream that can be repeated, whether it has been answered before. A status without
    details then means a lost connection, or one that was never made. A refusal can lose its details too,
    when it crosses with a message of the client. Damaged details have the same meaning. On other calls, the
    code gives the error's category.

    `error` is a grpc.RpcError that is also a grpc.Call, or a grpc.aio.AioRpcError.
    """
    code: grpc.StatusCode = error.code()
    text: str = error.details() or code.name
    request_id = _request_id(error)
    status, damaged = _details_of(error)
    if status is not None and status.details:
        return error_of(status, request_id=request_id)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and _TOO_LARGE in text:
        return MessageTooLargeError(text, request_id=request_id)
    if on_stream is not None and (damaged or code in LOST):
        lost = ConnectionLostError if on_stream else ServerUnreachableError
        return lost(text, request_id=request_id)
    unnamed = BASE_OF_CODE.get(code.value[0], ServerFaultError) if damaged else ServerFaultError
    kind = PLAIN.get(code, unnamed)
    if kind is ClientClosedError and not text.startswith(_CANCELLED_HERE):
        kind = ServerUnreachableError
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        kind = (
            RefusedError  # gRPC itself or a proxy has refused the call before it reached a server
        )
    if issubclass(kind, ClientSideError):
        return kind(text, request_id=request_id)
    return kind(text, reason=code.name, code=code.name, request_id=request_id)


def _details_of(error: Any) -> tuple[Status | None, bool]:
    """The status with its details, and whether it is damaged.

    A damaged one cannot be parsed, or contradicts the code and the text of the call.
    """
    try:
        return rpc_status.from_call(error), False
    except (DecodeError, ValueError):
        return None, True


def _request_id(error: Any) -> str:
    trailing: Iterable[tuple[str, str | bytes]] = error.trailing_metadata() or ()
    return next((str(value) for key, value in trailing if key == REQUEST_ID), "")
