"""Errors that all stores have in common."""

from __future__ import annotations

from carousel_server.core.errors import CarouselError
from carousel_server.core.store import SessionKey

RETRY_AFTER_S = 0.5
"""The retry hint of a fault of the medium."""

TOMBSTONE_S = 86_400.0
"""How long a store remembers why a session ended."""

MAX_EPOCH_FLOOR = 1 << 52
"""Greatest epoch_floor of a client. Lua counts in doubles, which are exact up to 2^53."""

_ENDINGS = {
    "SESSION_CLOSED": "was closed",
    "SESSION_EXPIRED": "was idle for longer than its idle_ttl",
}


class StoreError(ValueError):
    """A store that cannot be used. The first line has the cause, the second the fix."""


class ShardFault(CarouselError):  # noqa: N818 - as `fault` elsewhere
    """STORE_UNAVAILABLE for the sessions of one shard, while other shards answer."""

    def __init__(self, what: str = "a shard of the store does not answer") -> None:
        super().__init__("STORE_UNAVAILABLE", what, retry_after_s=RETRY_AFTER_S)


def unavailable(what: str = "the store does not answer") -> CarouselError:
    """STORE_UNAVAILABLE for a fault of the medium. Its cause is logged, and not sent to clients."""
    return CarouselError("STORE_UNAVAILABLE", what, retry_after_s=RETRY_AFTER_S)


def gone(key: SessionKey, reason: str | None) -> CarouselError:
    """The error for a session that is not in the store. `reason` None means that it is unknown."""
    if reason is None:
        return CarouselError("SESSION_NOT_FOUND", f"no session {key.id!r} is open")
    return CarouselError(reason, f"session {key.id!r} {_ENDINGS[reason]}")


def check_reason(reason: str) -> None:
    """Asserts that a reason is one for which sessions end."""
    assert reason in _ENDINGS, f"no session ends by {reason}"


def check_floor(epoch_floor: int) -> None:
    """Refuses an epoch_floor that no client can have seen. Raises FIELD_INVALID."""
    error = floor_error(epoch_floor)
    if error is not None:
        raise error


def floor_error(epoch_floor: int) -> CarouselError | None:
    """FIELD_INVALID for an epoch_floor that no client can have seen, else None."""
    if 0 <= epoch_floor <= MAX_EPOCH_FLOOR:
        return None
    message = f"epoch_floor must be from 0 to {MAX_EPOCH_FLOOR}, but is {epoch_floor}"
    return CarouselError("FIELD_INVALID", message, field="epoch_floor")
