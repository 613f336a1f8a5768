"""The exception of all rooms: a refusal or failure with a reason from the registry."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable, Mapping

from carousel_protos.errors import ERRORS, ErrorSpec

log = logging.getLogger(__name__)

STORE_WAITS = "accepted"
"""Metadata of a STORE_UNAVAILABLE that refuses nothing: the first step that waits for the store.

That step has run. Its commit is tried again.
"""


class CarouselError(Exception):
    """A refusal or failure that a client will see.

    Attributes:
        spec: the registry's entry, with code, meaning and fix.
        message: what happened, for the caller. It has no paths, no addresses and no traceback.
        metadata: machine-readable facts such as `expected` or `limit`.
        retry_after_s: when to try again, in seconds. None where that does not help.
        field: the request field at fault, for BadRequest. "" if there is none.
        seq: the first step concerned. 0 if there is none.
    """

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        metadata: Mapping[str, object] | None = None,
        retry_after_s: float | None = None,
        field: str = "",
        seq: int = 0,
    ) -> None:
        self.spec: ErrorSpec = ERRORS[reason]
        self.message = message
        self.metadata = {key: str(value) for key, value in (metadata or {}).items()}
        self.retry_after_s = retry_after_s
        self.field = field
        self.seq = seq
        super().__init__(f"{reason}: {message}")

    @property
    def reason(self) -> str:
        """The error's name in the registry."""
        return self.spec.reason

    def __reduce__(self) -> tuple[object, ...]:
        facts = (self.reason, self.message, self.metadata, self.retry_after_s, self.field, self.seq)
        return _made_again, facts


def _made_again(
    reason: str,
    message: str,
    metadata: Mapping[str, object],
    retry_after_s: float | None,
    field: str,
    seq: int,
) -> CarouselError:
    return CarouselError(
        reason, message, metadata=metadata, retry_after_s=retry_after_s, field=field, seq=seq
    )


def not_served(model: str, served: Iterable[str]) -> CarouselError:
    """MODEL_NOT_FOUND, with the closest name that is served."""
    close = difflib.get_close_matches(model, list(served), n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return CarouselError(
        "MODEL_NOT_FOUND", f"no model {model!r} is served here{hint}", field="model"
    )


def ended(reason: str, session_id: str) -> CarouselError:
    """The error for a session that is not here, by the reason why."""
    said = {
        "SESSION_NOT_FOUND": "is not open here",
        "SESSION_EXPIRED": "was idle for longer than its idle_ttl and has expired",
        "SESSION_CLOSED": "was closed",
        "SESSION_PARKED": "was parked in the store just now",
        "LEASE_LOST": "was released, because its lease was taken or has expired",
    }[reason]
    return CarouselError(reason, f"session {session_id!r} {said}", field="session_id")


def refusal_of(error: BaseException) -> CarouselError:
    """An error as a caller may see it. What is no error of the registry is a defect, and is logged."""
    if isinstance(error, CarouselError):
        return error
    log.error("a defect of the server", exc_info=error)
    return CarouselError("INTERNAL", "the server failed")
