"""What callers pass in, checked before anything is counted or sent."""

from __future__ import annotations

import math

from carousel._errors import FieldInvalidError

LONGEST_TIMEOUT_S = 366 * 86_400.0
"""A longer timeout, such as infinity, is this one: the wire has no place for what has no end."""


def bounded_timeout_s(timeout_s: float) -> float:
    """A timeout that can be sent and waited for. Raises FieldInvalidError for NaN."""
    if math.isnan(timeout_s):
        raise FieldInvalidError("timeout_s is NaN; it must be a number of seconds")
    return max(min(float(timeout_s), LONGEST_TIMEOUT_S), 0.0)


def idle_seconds(idle_ttl_s: float) -> float:
    """An idle_ttl that can be sent. Raises FieldInvalidError."""
    if not 0 < idle_ttl_s <= LONGEST_TIMEOUT_S:
        raise FieldInvalidError(
            f"idle_ttl_s is {idle_ttl_s}; it must be above 0 and at most {LONGEST_TIMEOUT_S:.0f}"
        )
    return idle_ttl_s


def unicode_of(text: str) -> str:
    """The text, if UTF-8 can hold it. Raises FieldInvalidError."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise FieldInvalidError(f"the text is no Unicode: {error}") from None
    return text


def blocks_ahead(window: int, ahead: int | None, block_steps: int) -> int:
    """How many blocks a stream may send before it takes an output. Raises FieldInvalidError."""
    if block_steps < 1:
        raise FieldInvalidError(f"block_steps is {block_steps}; it must be at least 1")
    if ahead is not None and ahead < 1:
        raise FieldInvalidError(f"ahead is {ahead}; it must be at least 1")
    steps = window if ahead is None else min(ahead, window)
    return max(steps // block_steps, 1)
