"""Steps that came behind a missing one: they are refused together."""

from __future__ import annotations

import numpy as np

from carousel_server.core.errors import CarouselError
from carousel_server.core.types import Int64s
from carousel_server.rows.listeners import Listeners
from carousel_server.rows.row_set import alike


class Gaps:
    """The gaps of one admission. Used on the engine's thread only.

    Under overload there are many: behind a step that came too late, all that were in flight. The more of
    them come at once, the fewer calls tell of them.
    """

    def __init__(self, listeners: Listeners) -> None:
        self._listeners = listeners
        # Columns of the same length: the sink's number, tag, expected seq and seq of each.
        self._found: list[tuple[Int64s, Int64s, Int64s, Int64s]] = []

    def add(self, numbers: Int64s, tags: Int64s, expected: Int64s, firsts: Int64s) -> None:
        """Takes gaps in order of arrival; int64[n] each.

        Args:
            numbers: of the sinks, which are bound.
            tags: of the sessions.
            expected: the step that each session needs next.
            firsts: the first step of each that came.
        """
        if len(tags):
            self._found.append((numbers, tags, expected, firsts))

    def refuse(self) -> None:
        """Tells each sink, with one call for all that need the same step next."""
        if not self._found:
            return
        numbers, tags, expected, firsts = map(np.concatenate, zip(*self._found, strict=True))
        self._found.clear()
        for group in alike(numbers, expected):
            sink = self._listeners.sink(int(numbers[group[0]]))
            error = _gap(int(expected[group[0]]))
            sink.failures(tags[group].tolist(), firsts[group].tolist(), error)


def _gap(expected: int) -> CarouselError:
    message = f"a later step came, but {expected} is next"
    return CarouselError("SEQUENCE_GAP", message, metadata={"expected": expected})
