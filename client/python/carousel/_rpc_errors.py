"""From a failed gRPC call, of either API, to the SDK's exception."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc
from grpc_status import rpc_status

from ._core.faults import error_of
from ._error_bases import (
    CarouselError,
    ClientClosedError,
    ClientSideError,
    ConnectionLostError,
    NotFoundError,
    ProtocolViolationError,
    ReplyTimeoutError,
    ServerFaultError,
    ServerUnreachableError,
)

REQUEST_ID = "x-request-id"

PLAIN: dict[grpc.StatusCode, type[CarouselError]] = {
    grpc.StatusCode.UNAVAILABLE: ServerUnreachableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: ReplyTimeoutError,
    grpc.StatusCode.CANCELLED: ClientClosedError,
    grpc.StatusCode.UNIMPLEMENTED: ProtocolViolationError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
}
"""What a status without details means: it was made by gRPC, not by a Carousel server."""

LOST = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.CANCELLED,
}
"""What gRPC says of a stream whose connection broke; which of them depends on who noticed, and when."""


def error_of_call(error: Any, *, on_stream: bool | None = None) -> CarouselError:
    """The exception for a call that failed.

    `on_stream`: for a stream that can be begun again, whether it had been answered before. gRPC's plain
    words then mean a connection that was lost, or that never came to be: a refusal that crosses with what
    the client is sending may lose its details.

    `error` is a grpc.RpcError that is a grpc.Call too, or a grpc.aio.AioRpcError.
    """
    code: grpc.StatusCode = error.code()
    text: str = error.details() or code.name
    request_id = _request_id(error)
    status = rpc_status.from_call(error)
    if status is not None and status.details:
        return error_of(status, request_id=request_id)
    if code in LOST and on_stream is not None:
        lost = ConnectionLostError if on_stream else ServerUnreachableError
        return lost(text, request_id=request_id)
    kind = PLAIN.get(code, ServerFaultError)
    if issubclass(kind, ClientSideError):
        return kind(text, request_id=request_id)
    return kind(text, reason=code.name, code=code.name, request_id=request_id)


def _request_id(error: Any) -> str:
    trailing: Iterable[tuple[str, str | bytes]] = error.trailing_metadata() or ()
    return next((str(value) for key, value in trailing if key == REQUEST_ID), "")
