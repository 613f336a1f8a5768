"""The parts of an error: its status code, who must act, and its texts. `errors` has the registry."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum


class Code(Enum):
    """Canonical status codes, numbered as in google/rpc/code.proto."""

    CANCELLED = 1
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class Actor(StrEnum):
    """Who must act to make the error go away."""

    CALLER = "the caller's code"
    RETRY = "nobody: try again"
    OPERATOR = "the operator of the server"
    MAINTAINERS = "the maintainers: please report it"


_KINDS = {
    Code.INVALID_ARGUMENT: "InvalidInputError",
    Code.NOT_FOUND: "NotFoundError",
    Code.UNAUTHENTICATED: "UnauthorizedError",
    Code.ALREADY_EXISTS: "ConflictError",
    Code.FAILED_PRECONDITION: "ConflictError",
    Code.ABORTED: "ConflictError",
    Code.OUT_OF_RANGE: "ConflictError",
    Code.UNIMPLEMENTED: "ConflictError",
    Code.RESOURCE_EXHAUSTED: "InvalidInputError",  # what no retry cures: the message is too large
}


@dataclass(frozen=True, slots=True)
class ErrorSpec:
    """One reason: its status code, who must act, what it means, how to fix it."""

    reason: str
    code: Code
    actor: Actor
    meaning: str
    fix: str

    @property
    def retryable(self) -> bool:
        """True if the same call may succeed later, unchanged."""
        return self.actor is Actor.RETRY

    @property
    def kind(self) -> str:
        """Name of the SDKs' class for reasons like this: who must act decides first, then the code."""
        if self.actor is Actor.RETRY:
            return "RefusedError"
        if self.actor in (Actor.OPERATOR, Actor.MAINTAINERS):
            return "ServerFaultError"
        return _KINDS[self.code]

    @property
    def exception(self) -> str:
        """Name of the SDK's exception class, such as `SequenceGapError` for SEQUENCE_GAP."""
        return "".join(word.capitalize() for word in self.reason.split("_")) + "Error"
