"""What can go wrong in a store, said alike by all of them."""

from __future__ import annotations

from carousel_server.core.errors import CarouselError
from carousel_server.core.store import SessionKey

RETRY_AFTER_S = 0.5
"""The hint that goes with a fault of the medium."""

TOMBSTONE_S = 86_400.0
"""How long it is remembered why a session ended."""

MAX_EPOCH_FLOOR = 1 << 52
"""Greatest epoch that a client may claim to have seen: Lua counts in doubles, exact up to 2^53."""

_ENDINGS = {
    "SESSION_CLOSED": "was closed",
    "SESSION_EXPIRED": "was idle for longer than its idle_ttl",
}


class StoreError(ValueError):
    """A store that cannot be used. The first line says the cause, the second the fix."""


def unavailable(what: str = "the store does not answer") -> CarouselError:
    """STORE_UNAVAILABLE: a fault of the medium. The cause is for the log, not for the client."""
    return CarouselError("STORE_UNAVAILABLE", what, retry_after_s=RETRY_AFTER_S)


def gone(key: SessionKey, reason: str | None) -> CarouselError:
    """Why there is no such session; None where nothing is known of it."""
    if reason is None:
        return CarouselError("SESSION_NOT_FOUND", f"no session {key.id!r} is open")
    return CarouselError(reason, f"session {key.id!r} {_ENDINGS[reason]}")


def held(key: SessionKey, left_s: float) -> CarouselError:
    """Another live replica has the session, for `left_s` unless it renews its lease."""
    return CarouselError(
        "SESSION_HELD", f"session {key.id!r} is held by another replica", retry_after_s=left_s
    )


def check_reason(reason: str) -> None:
    """A session ends for one of two reasons; another is our bug."""
    assert reason in _ENDINGS, f"no session ends by {reason}"


def check_floor(epoch_floor: int) -> None:
    """Refuses a floor that no client can have seen, before it spoils the arithmetic of a store."""
    if not 0 <= epoch_floor <= MAX_EPOCH_FLOOR:
        raise CarouselError(
            "FIELD_INVALID",
            f"epoch_floor must be from 0 to {MAX_EPOCH_FLOOR}, but is {epoch_floor}",
            field="epoch_floor",
        )
