"""One call, of any transport: who asks for what. Handlers find it without its transport's types."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Awaitable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

from carousel_server.core.errors import CarouselError
from carousel_server.core.metering import HTTP

from .call_limits import AT_THE_DOOR

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
        f"{HTTP}/Infer",
        f"{HTTP}/Step",
    }
)
"""Logged at debug when they go well: probes come all day, steps and sequences by the thousand."""

ONE_MESSAGE = frozenset({"unary", "server_stream"})
"""Kinds of methods whose request is one message."""

ABANDONED = "ABANDONED"
"""In the log: the client ended the call before its message was read."""

_WORDLESS = frozenset({ABANDONED, "MALFORMED_MESSAGE"})
"""How a call ends whose client sends nothing at all, or breaks the connection."""

access = logging.getLogger("carousel.access")


class CallContext(Protocol):
    """What a handler needs of its call's transport."""

    def time_remaining(self) -> float | None:
        """Seconds until the client's deadline. None if it has set none."""

    def write(self, message: Any) -> Awaitable[None]:
        """Sends one message of a stream of replies."""


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


def enter(call: Call) -> None:
    """Makes `call` the one of the running task."""
    _current.set(call)


def current_call() -> Call:
    """The call whose handler is running; each call runs in a task of its own."""
    return _current.get()


def request_id_of(given: Any) -> str:
    """The caller's own id if it is fit for a log line, else a new one."""
    if isinstance(given, str) and _REQUEST_ID.fullmatch(given):
        return given
    return os.urandom(16).hex()


def defect(call: Call) -> CarouselError:
    """What the caller learns of a defect of the server."""
    return CarouselError("INTERNAL", f"the server failed on request {call.request_id}")


def log_access(call: Call, code: str, seconds: float) -> None:
    """Writes the line of a call that has ended with a canonical status code, such as "OK"."""
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
