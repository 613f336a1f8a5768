"""Which sinks are in use, as small numbers, so that the table can hold them in an array."""

from __future__ import annotations

from carousel_server.core.sinks import StepSink


class Sinks:
    """Numbers for sinks, given back when no session is bound. Used on the engine's thread only."""

    def __init__(self) -> None:
        self._sinks: list[StepSink | None] = []
        # How many rows are bound to each.
        self._bound: list[int] = []
        self._numbers: dict[int, int] = {}
        self._free: list[int] = []

    def bind(self, sink: StepSink) -> int:
        """The sink's number; counts one more row bound to it."""
        number = self._numbers.get(id(sink))
        if number is None:
            if self._free:
                number = self._free.pop()
                self._sinks[number] = sink
            else:
                number = len(self._sinks)
                self._sinks.append(sink)
                self._bound.append(0)
            self._numbers[id(sink)] = number
        self._bound[number] += 1
        return number

    def unbind(self, number: int) -> None:
        """Counts one row less; forgets the sink with its last row."""
        self._bound[number] -= 1
        assert self._bound[number] >= 0, "a sink was unbound more often than bound"
        if self._bound[number] == 0:
            del self._numbers[id(self._sinks[number])]
            self._sinks[number] = None
            self._free.append(number)

    def number(self, sink: StepSink) -> int:
        """The number of a bound sink, or -2, which no row holds."""
        return self._numbers.get(id(sink), -2)

    def __getitem__(self, number: int) -> StepSink:
        """The sink of a number that a row holds."""
        sink = self._sinks[number]
        assert sink is not None, f"no sink has number {number}"
        return sink
