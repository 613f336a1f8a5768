"""The one exception that crosses rooms: a refusal or failure with a reason from the registry."""

from __future__ import annotations

from collections.abc import Mapping

from carousel_protos.errors import ERRORS, ErrorSpec


class CarouselError(Exception):
    """A refusal or failure that a client will see.

    Attributes:
        spec: the registry's entry; says code, meaning and fix.
        message: what happened here, for the caller's eyes: no paths, no addresses, no traceback.
        metadata: machine-readable facts such as `expected` or `limit`.
        retry_after_s: when to try again, in seconds; None where trying again does not help.
        field: the request field at fault, for BadRequest; "" if none.
        seq: the first step concerned; 0 if none.
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
        """The registry's name of this error."""
        return self.spec.reason
