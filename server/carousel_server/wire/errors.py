"""CarouselError to google.rpc.Status: the one place where an error becomes bytes."""

from __future__ import annotations

from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2 as details
from google.rpc.status_pb2 import Status

from carousel_protos.errors import DOMAIN, Code
from carousel_server.core.errors import CarouselError
from carousel_server.core.metering import WireMetrics
from carousel_server.core.replicas import OWNER

_RESOURCES = {
    "MODEL_NOT_FOUND": "model",
    "SESSION_NOT_FOUND": "session",
    "SESSION_EXPIRED": "session",
    "SESSION_CLOSED": "session",
    "SESSION_EXISTS": "session",
}
"""Reasons that are about one named thing, and what kind of thing it is."""


def status_of(error: CarouselError, request_id: str = "") -> Status:
    """The error as it travels: code, text, and details that a program can read.

    ErrorInfo always; RetryInfo where a delay is known; BadRequest where a field is at fault;
    ResourceInfo and QuotaFailure where the reason is about a named thing or a limit; RequestInfo
    where the server's log has more to say.
    """
    spec = error.spec
    info = details.ErrorInfo(reason=spec.reason, domain=DOMAIN, metadata=error.metadata)
    status = Status(code=spec.code.value, message=f"{error.message}. {spec.fix}")
    _add(status, info)
    if error.retry_after_s is not None:
        _add(status, details.RetryInfo(retry_delay=_duration(error.retry_after_s)))
    if error.field:
        at_fault = details.BadRequest.FieldViolation(field=error.field, description=error.message)
        _add(status, details.BadRequest(field_violations=[at_fault]))
    if (kind := _RESOURCES.get(spec.reason)) is not None:
        name = error.metadata.get(kind, "")
        _add(status, details.ResourceInfo(resource_type=kind, resource_name=name))
    if spec.code is Code.RESOURCE_EXHAUSTED:
        # A quota is a tenant's; any other limit is the server's, and has the reason for its name.
        subject = error.metadata["tenant"] if spec.reason == "QUOTA_EXCEEDED" else spec.reason
        violation = details.QuotaFailure.Violation(subject=subject, description=error.message)
        _add(status, details.QuotaFailure(violations=[violation]))
    if request_id:
        _add(status, details.RequestInfo(request_id=request_id))
    return status


def named(error: CarouselError, *facts: str) -> CarouselError:
    """The same error with its reason, and facts, in its text: for clients that show nothing else of it."""
    if f"({error.reason}" in error.message:
        return error
    text = f"{error.message} ({', '.join((error.reason, *facts))})"
    return CarouselError(
        error.reason, text, metadata=error.metadata, retry_after_s=error.retry_after_s,
        field=error.field, seq=error.seq,
    )  # fmt: skip


def invalid(field: str, message: str) -> CarouselError:
    """A field is missing or out of its range."""
    return CarouselError("FIELD_INVALID", f"{field}: {message}", field=field)


def count_refusal(metrics: WireMetrics, error: CarouselError, count: int = 1) -> None:
    """Counts answers with an error; those of a quota by tenant too."""
    metrics.refused(error.reason, count)
    if OWNER in error.metadata:
        metrics.redirected(count)
    if error.reason == "QUOTA_EXCEEDED":
        metrics.quota_refused(error.metadata["tenant"], error.metadata["quota"], count)


def _add(status: Status, detail: Message) -> None:
    packed = Any()
    packed.Pack(detail)
    status.details.append(packed)


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(int(seconds * 1e9))
    return duration
