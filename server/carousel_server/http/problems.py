"""CarouselError to an answer of HTTP: a status code, and problem details as in RFC 9457."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic_core import to_json
from starlette.responses import Response

from carousel_server.core.errors import CarouselError

MEDIA_TYPE = "application/problem+json"

STATUS: Mapping[str, int] = {
    # -- the message itself
    "MALFORMED_MESSAGE": 400,
    "FIELD_INVALID": 400,
    "MESSAGE_TOO_LARGE": 413,
    "TOKEN_INVALID": 401,
    "CERTIFICATE_UNKNOWN": 401,
    "IDENTITY_CONFLICT": 401,
    # -- inputs
    "INPUT_SHAPE": 400,
    "INPUT_DTYPE": 400,
    "INPUT_NOT_FINITE": 400,
    "STEP_NOT_FINITE": 400,
    "UNKNOWN_TOKEN": 400,
    "SEQUENCE_TOO_LONG": 400,
    # -- models
    "MODEL_NOT_FOUND": 404,
    "MODEL_NOT_CAUSAL": 409,
    "MODEL_NOT_GENERATIVE": 409,
    "TEXT_UNAVAILABLE": 409,
    "MODEL_UNHEALTHY": 503,
    "INITIAL_UNKNOWN": 400,
    "STATE_INVALID": 400,
    # -- sessions
    "SESSION_NOT_FOUND": 404,
    "SESSION_EXPIRED": 404,
    "SESSION_CLOSED": 404,
    "SESSION_EXISTS": 409,
    "SESSION_BUSY": 409,
    "SUPERSEDED": 409,
    "HANDLE_NOT_BOUND": 409,
    "HANDLE_IN_USE": 409,
    "DURABILITY_UNAVAILABLE": 409,
    "SEQUENCE_NOT_STARTED": 400,
    "METHOD_NOT_OFFERED": 501,
    # -- the store
    "DATA_LOSS": 500,
    "SNAPSHOT_DAMAGED": 500,
    "STORE_UNAVAILABLE": 503,
    "SESSION_HELD": 503,
    "SESSION_PARKED": 503,
    "LEASE_LOST": 503,
    # -- cursors
    "SEQUENCE_GAP": 409,
    "SEQUENCE_REUSED": 409,
    "OUTPUT_FORGOTTEN": 410,
    # -- snapshots
    "SNAPSHOT_INVALID": 400,
    "FINGERPRINT_MISMATCH": 409,
    # -- limits
    "SLAB_FULL": 429,
    "TOO_MANY_SESSIONS": 429,
    "TOO_MANY_STREAMS": 429,
    "TOO_MANY_CALLS": 429,
    "QUOTA_EXCEEDED": 429,
    "WINDOW_EXCEEDED": 429,
    "QUEUE_FULL": 429,
    # -- time
    "DEADLINE_EXCEEDED": 504,
    "MESSAGE_TIMEOUT": 408,
    "DRAINING": 503,
    # -- faults of the server
    "STEP_FAILED": 500,
    "INTERNAL": 500,
}
"""The status code of every reason of the registry."""


def problem_of(error: CarouselError, request_id: str) -> dict[str, Any]:
    """The error as an object: the members of RFC 9457, then ours."""
    problem = {
        "type": f"urn:carousel:error:{error.reason}",
        "title": error.spec.meaning,
        "status": STATUS[error.reason],
        "detail": error.message,
        "reason": error.reason,
        "fix": error.spec.fix,
        "request_id": request_id,
        "metadata": error.metadata,
    }
    if error.field:
        problem["field"] = error.field
    if error.seq:
        problem["seq"] = error.seq
    if error.retry_after_s is not None:
        problem["retry_after_s"] = error.retry_after_s
    return problem


def headers_of(error: CarouselError) -> dict[str, str]:
    """Headers that go with an error: when to try again, and how to say who calls."""
    headers = {}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    if STATUS[error.reason] == 401:
        headers["www-authenticate"] = "Bearer"
    return headers


def problem_response(error: CarouselError, request_id: str) -> Response:
    """The answer to a call that is refused."""
    return Response(
        to_json(problem_of(error, request_id)),
        STATUS[error.reason],
        headers_of(error),
        MEDIA_TYPE,
    )
