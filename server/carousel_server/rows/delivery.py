"""Hands results to sinks: one call per sink, not per row."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from carousel_server.core.errors import CarouselError
from carousel_server.core.sinks import StepSink
from carousel_server.core.types import Int64s, SessionView

from .groups import alike
from .sinks import Sinks
from .table import SessionTable


class Delivery:
    """Everything that leaves for step sinks goes through here. Used on the engine's thread only."""

    def __init__(self, table: SessionTable, sinks: Sinks) -> None:
        self._table = table
        self._sinks = sinks

    def outputs(self, rows: Int64s, first_seqs: Int64s, outputs: np.ndarray) -> None:
        """Sends outputs uint8[n, steps, row bytes] of n rows, grouped by their sinks."""
        for number, group in _by_number(self._table.sink[rows]):
            if number < 0:
                continue  # nobody listens now; the outputs are kept and can be had again
            mine = rows[group]
            self._sinks[number].outputs(
                self._table.tag[mine],
                first_seqs[group],
                outputs.shape[1],
                np.ascontiguousarray(outputs[group]).reshape(len(mine), -1),
            )

    def failure(self, sink: StepSink, tag: int, error: CarouselError) -> None:
        """Tells a sink that steps of one of its sessions were refused."""
        sink.failures([tag], [error.seq], error)

    def failures_of(
        self, rows: Int64s, seqs: Int64s, error_of: Callable[[int], CarouselError]
    ) -> None:
        """Tells whoever listens to these sessions that they go no further than before `seqs`.

        Args:
            rows: int64[n].
            seqs: int64[n], the step of each that did not run.
            error_of: from a seq, what to tell all sessions of one sink that have it.
        """
        numbers = self._table.sink[rows]
        for group in alike(numbers, seqs):
            if (number := int(numbers[group[0]])) >= 0:
                error = error_of(int(seqs[group[0]]))
                tags = self._table.tag[rows[group]].tolist()
                self._sinks[number].failures(tags, seqs[group].tolist(), error)

    def failure_of(self, row: int, error: CarouselError) -> None:
        """The same for a session, if anybody listens to it."""
        if self._table.sink[row] >= 0:
            sink = self._sinks[int(self._table.sink[row])]
            self.failure(sink, int(self._table.tag[row]), error)

    def unbind(self, row: int, error: CarouselError | None) -> None:
        """Takes a session from its sink, and tells it why unless it asked for it."""
        number = int(self._table.sink[row])
        if number < 0:
            return
        sink, tag = self._sinks[number], int(self._table.tag[row])
        self._table.sink[row] = -1
        self._sinks.unbind(number)
        if error is not None:
            sink.unbound(tag, error)

    def durable(self, rows: Int64s) -> None:
        """Tells sinks how far the store has their sessions, one call each."""
        numbers = self._table.sink[rows]
        for number in np.unique(numbers[numbers >= 0]).tolist():
            mine = rows[numbers == number]
            self._sinks[number].durable(self._table.tag[mine], self._table.durable[mine])

    def park(self, row: int, session: SessionView) -> None:
        """Takes a session from its sink for a while: the sink fetches it when it needs it."""
        number = int(self._table.sink[row])
        if number >= 0:
            self._sinks[number].parked(int(self._table.tag[row]), session)
            self.unbind(row, None)

    def bind(self, row: int, sink: StepSink, tag: int, superseded: CarouselError) -> None:
        """Sends a session's outputs to `sink` from now on; an older binding is told so."""
        self.unbind(row, superseded)
        self._table.sink[row] = self._sinks.bind(sink)
        self._table.tag[row] = tag


def _by_number(numbers: Int64s) -> Iterator[tuple[int, slice | Int64s]]:
    """Each number, and where it stands; often there is only one."""
    if (numbers == numbers[0]).all():
        yield int(numbers[0]), slice(None)
        return
    order = np.argsort(numbers, kind="stable")
    bounds = np.flatnonzero(np.diff(numbers[order])) + 1
    for group in np.split(order, bounds):
        yield int(numbers[group[0]]), group
