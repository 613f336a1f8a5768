"""From `google.rpc.Status` to the exception of its reason."""

from __future__ import annotations

from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2 as details
from google.rpc.status_pb2 import Status

from carousel._error_bases import (
    BY_REASON,
    CarouselError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
    ServerFaultError,
    UnauthorizedError,
)
from carousel_protos.errors import DOMAIN, ERRORS, Code

from .arguments import bounded_timeout_s

BASE_OF_CODE: dict[int, type[CarouselError]] = {
    Code.INVALID_ARGUMENT.value: InvalidInputError,
    Code.NOT_FOUND.value: NotFoundError,
    Code.UNAUTHENTICATED.value: UnauthorizedError,
    Code.RESOURCE_EXHAUSTED.value: RefusedError,
    Code.UNAVAILABLE.value: RefusedError,
    Code.ALREADY_EXISTS.value: ConflictError,
    Code.FAILED_PRECONDITION.value: ConflictError,
    Code.ABORTED.value: ConflictError,
    Code.OUT_OF_RANGE.value: ConflictError,
}
"""The category of a reason that a newer server knows and this client does not."""


def error_of(status: Status, *, seq: int = 0, request_id: str = "") -> CarouselError:
    """The typed exception of a status; a category's base if its reason is unknown here.

    A detail that cannot be parsed counts as absent.
    """
    info, retry, request = details.ErrorInfo(), details.RetryInfo(), details.RequestInfo()
    for detail in status.details:
        for known in (info, retry, request):
            if detail.Is(known.DESCRIPTOR):
                _unpack(detail, known)
    known_reason = info.domain == DOMAIN and info.reason in BY_REASON
    error_class = (
        BY_REASON[info.reason] if known_reason else BASE_OF_CODE.get(status.code, ServerFaultError)
    )
    return error_class(
        _message(status.message, info.reason),
        reason=info.reason or None,
        code=_code_name(status.code),
        metadata=dict(info.metadata),
        retry_after_s=_delay_s(retry) if retry.HasField("retry_delay") else None,
        request_id=request.request_id or request_id,
        seq=seq,
    )


def _unpack(detail: Any, known: Message) -> None:
    try:
        detail.Unpack(known)
    except DecodeError:
        known.Clear()


def _delay_s(retry: details.RetryInfo) -> float:
    """The hint, within what can be waited for."""
    delay = retry.retry_delay
    return bounded_timeout_s(delay.seconds + delay.nanos / 1e9)


def _message(text: str, reason: str) -> str:
    """The text without the fix, which servers add for clients that do not know the registry."""
    spec = ERRORS.get(reason)
    return text.removesuffix(spec.fix).rstrip() if spec else text


def _code_name(number: int) -> str:
    return next((code.name for code in Code if code.value == number), "UNKNOWN")
