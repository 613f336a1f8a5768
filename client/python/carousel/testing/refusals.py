"""Refusals of the fake server: its own, and those that a test injects."""

from __future__ import annotations

import threading
from collections import defaultdict, deque

from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message
from google.rpc import error_details_pb2 as details
from google.rpc.status_pb2 import Status

from carousel._core.blocks import duration
from carousel_protos.errors import DOMAIN, ERRORS


class Refusal(Exception):  # noqa: N818 - it travels as a status
    """A refusal of the fake server.

    Args:
        reason: from the registry of errors.
        message: what is wrong. By default the reason's meaning.
        retry_after_s: the hint that goes with it.
        metadata: of the ErrorInfo.
    """

    def __init__(
        self,
        reason: str,
        message: str = "",
        *,
        retry_after_s: float | None = None,
        **metadata: object,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.message = message or ERRORS[reason].meaning
        self.retry_after_s = retry_after_s
        self.metadata = {key: str(value) for key, value in metadata.items()}

    def status(self) -> Status:
        """The rich status, with ErrorInfo, RequestInfo and RetryInfo."""
        spec = ERRORS[self.reason]
        status = Status(code=spec.code.value, message=f"{self.message} {spec.fix}")
        found: list[Message] = [
            details.ErrorInfo(reason=self.reason, domain=DOMAIN, metadata=self.metadata),
            details.RequestInfo(request_id="fake"),
        ]
        if self.retry_after_s is not None:
            found.append(details.RetryInfo(retry_delay=duration(self.retry_after_s)))
        for detail in found:
            packed = Any()
            packed.Pack(detail)
            status.details.append(packed)
        return status


class Injections:
    """Refusals for calls that are still to come. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.waiting: defaultdict[str, deque[Refusal]] = defaultdict(deque)

    def add(self, call: str, refusal: Refusal, times: int) -> None:
        """Refuses the next `times` calls of this name."""
        with self._lock:
            self.waiting[call].extend([refusal] * times)

    def check(self, call: str) -> None:
        """Raises the next refusal for this call, if there is one."""
        with self._lock:
            if self.waiting[call]:
                raise self.waiting[call].popleft()
