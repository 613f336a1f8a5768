"""Who receives what happens to the sessions on the rows: step sinks, one call per sink and not per row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from carousel_server.core.errors import CarouselError
from carousel_server.core.moves import Hold
from carousel_server.core.sinks import StepSink
from carousel_server.core.types import Int64s, SessionView

from .row_set import alike
from .table import SessionTable


class Listeners:
    """The step sink that each row is bound to. Used on the engine's thread only.

    A sink has a small number while a row is bound to it, so that the table can hold it in an array.
    """

    def __init__(self, table: SessionTable) -> None:
        self._table = table
        self._sinks: list[StepSink | None] = []
        # How many rows are bound to each.
        self._bound: list[int] = []
        self._numbers: dict[int, int] = {}
        self._free: list[int] = []

    # -- who listens

    def number(self, sink: StepSink) -> int:
        """The number of a bound sink, or -2, which no row holds."""
        return self._numbers.get(id(sink), -2)

    def numbers(self, sinks: Sequence[StepSink]) -> list[int]:
        """The same for many."""
        number_of = self._numbers.get
        return [number_of(id(sink), -2) for sink in sinks]

    def is_bound(self, row: int, sink: StepSink) -> bool:
        """True if `sink` gets the row's outputs."""
        return int(self._table.sink[row]) == self.number(sink)

    def bind(
        self, row: int, sink: StepSink, tag: int, hold: Hold, superseded: CarouselError
    ) -> None:
        """Sends a session's outputs to `sink` from now on; an older sink gets `superseded`."""
        self.unbind(row, superseded)
        number = self._numbers.get(id(sink))
        if number is None:
            number = self._enter(sink)
        self._bound[number] += 1
        self._table.sink[row] = number
        self._table.tag[row] = tag
        self._table.hold[row] = hold

    def unbind(self, row: int, error: CarouselError | None) -> None:
        """Takes a session from its sink, if it has one. The sink gets `error` unless that is None."""
        number = int(self._table.sink[row])
        if number < 0:
            return
        sink, tag = self.sink(number), int(self._table.tag[row])
        self._table.sink[row] = -1
        self._table.hold[row] = Hold.NONE
        self._bound[number] -= 1
        if not self._bound[number]:
            del self._numbers[id(sink)]
            self._sinks[number] = None
            self._free.append(number)
        if error is not None:
            sink.unbound(tag, error)

    def park(self, row: int, session: SessionView) -> None:
        """Takes a session from its sink until the sink needs it and asks for it."""
        number = int(self._table.sink[row])
        if number >= 0:
            self.sink(number).away(int(self._table.tag[row]), session)
            self.unbind(row, None)

    def hand_over(
        self, row: int, session: SessionView, address: str, error: CarouselError
    ) -> Callable[[], None]:
        """Takes a session from its sink, since it leaves for the replica at `address`.

        A stream that does not follow gets `error`.

        Returns:
            What notifies a stream that follows. To be called when the session is released.
        """
        number, tag, hold = (
            int(of[row]) for of in (self._table.sink, self._table.tag, self._table.hold)
        )
        if hold == Hold.CALLS:
            self.park(row, session)
        elif hold == Hold.STREAM:
            self.unbind(row, error)
        elif hold == Hold.FOLLOWER:
            sink = self.sink(number)
            self.unbind(row, None)
            return partial(sink.moved, tag, address)
        else:
            assert hold == Hold.NONE, f"no sink has hold {hold}"
        return _nothing

    # -- what they receive

    def outputs(self, rows: Int64s, first_seqs: Int64s, outputs: np.ndarray) -> None:
        """Sends outputs uint8[n, steps, row bytes] of n rows, grouped by their sinks."""
        numbers, ends = self._table.sink[rows], [len(rows)]
        if np.count_nonzero(numbers != numbers[0]):
            order = np.argsort(numbers, kind="stable")
            numbers, rows = numbers[order], rows[order]
            first_seqs, outputs = first_seqs[order], outputs[order]
            ends = [*(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(rows)]
        steps, tags = outputs.shape[1], self._table.tag[rows]
        packed = np.ascontiguousarray(outputs).reshape(len(rows), -1)
        start = 0
        for end in ends:
            group, start = slice(start, end), end
            number = int(numbers[group.start])
            if number >= 0:  # else no sink is bound; the window keeps the outputs
                self.sink(number).outputs(tags[group], first_seqs[group], steps, packed[group])

    def failures(
        self, rows: Int64s, seqs: Int64s, error_of: Callable[[int], CarouselError]
    ) -> None:
        """Notifies the sinks of these rows that each row goes no further than before its seq.

        Args:
            rows: int64[n].
            seqs: int64[n], the step of each that did not run.
            error_of: makes the error for the sessions of one sink with the same seq.
        """
        numbers = self._table.sink[rows]
        for group in alike(numbers, seqs):
            if (number := int(numbers[group[0]])) >= 0:
                error = error_of(int(seqs[group[0]]))
                tags = self._table.tag[rows[group]].tolist()
                self.sink(number).failures(tags, seqs[group].tolist(), error)

    def failure(self, row: int, error: CarouselError) -> None:
        """The same for one row; `error` has the seq."""
        self.failures(np.asarray([row]), np.asarray([error.seq]), lambda _seq: error)

    def durable(self, rows: Int64s) -> None:
        """Notifies sinks how far the store has their sessions, one call each."""
        numbers = self._table.sink[rows]
        for number in np.unique(numbers[numbers >= 0]).tolist():
            mine = rows[numbers == number]
            self.sink(number).durable(self._table.tag[mine], self._table.durable[mine])

    def _enter(self, sink: StepSink) -> int:
        if self._free:
            number = self._free.pop()
            self._sinks[number] = sink
        else:
            number = len(self._sinks)
            self._sinks.append(sink)
            self._bound.append(0)
        self._numbers[id(sink)] = number
        return number

    def sink(self, number: int) -> StepSink:
        """The sink of a number that a row holds."""
        sink = self._sinks[number]
        assert sink is not None, f"no sink has number {number}"
        return sink


def _nothing() -> None:
    """Stands for a notification where there is no one to notify."""
