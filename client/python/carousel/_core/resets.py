"""Steps that start from their session's initial state: which of a call's, and whether the next one does."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from carousel._errors import InputDtypeError, InputShapeError

from .array_inputs import array_of
from .tickets import MARKED, Rows

GIVEN = 1
"""In the resets of steps: the caller has passed it with the steps."""


class NextReset:
    """Whether a session's next step starts from the initial state. Safe on any thread."""

    def __init__(self) -> None:
        # Each operation of a deque is atomic.
        self._marks: deque[None] = deque(maxlen=1)

    def mark(self) -> None:
        """The next step does."""
        self._marks.append(None)

    def take(self) -> bool:
        """Whether the step that is being sent does. The step after it does not, until `mark`."""
        try:
            self._marks.pop()
        except IndexError:
            return False
        return True


def given_resets(resets: Any, *shape: int) -> Rows | None:
    """What a caller passes as `resets`, as uint8[*shape] of 0 and GIVEN; None for none.

    Raises:
        InputShapeError, InputDtypeError: they are not booleans of that shape.
    """
    if resets is None:
        return None
    array = array_of(resets)
    if array.dtype.kind not in "biu" or not np.isin(array, (0, 1)).all():
        raise InputDtypeError("resets must be booleans, one for each step")
    if array.shape != shape:
        raise InputShapeError(
            f"resets must have shape {list(shape)}, one for each step, not {list(array.shape)}"
        )
    return array.astype(np.uint8) * GIVEN if array.any() else None


def with_marks(resets: Rows | None, marked: list[bool], steps: int) -> Rows | None:
    """The resets uint8[n, steps] of n sessions, of which some were marked before the first of these steps."""
    if not any(marked):
        return resets
    result = np.zeros((len(marked), steps), np.uint8) if resets is None else resets.copy()
    result[marked, 0] = MARKED
    return result


def block_resets(marks: list[bool], rows: int, next_reset: NextReset) -> Rows | None:
    """The resets uint8[1, rows] of a block of a stream, by which of its rows were marked; None for none.

    Fewer rows than marks are sent where one is refused. A mark of that one is for the next row.
    """
    if rows < len(marks) and marks[rows]:
        next_reset.mark()
    sent = marks[:rows]
    return np.asarray([sent], np.uint8) * MARKED if any(sent) else None


def wire_resets(resets: Rows | None) -> bytes:
    """Resets as a Block has them: a byte of 0 or 1 for each step, empty for none."""
    return b"" if resets is None or not resets.any() else (resets != 0).tobytes()
