"""Times of requests at the Triton door: four parts that are never negative, of each tenant apart."""

from __future__ import annotations

import pytest

from carousel_server.core.sinks import current_tick
from carousel_server.wire.triton import tally
from carousel_server.wire.triton.tally import Stopwatch, Tallies, TickTimes


class Clock:
    """Stands for the module `time`."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s

    def time(self) -> float:
        return 1_700_000_000.0 + self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(tally, "time", clock)
    return clock


@pytest.mark.parametrize(
    ("tick", "expected"),
    [
        (TickTimes(103.0, 105.0), (1, 2, 2, 1)),
        (TickTimes(0.0, 105.0), (1, 0, 4, 1)),  # the engine does not say when its tick began
        (TickTimes(99.0, 105.0), (1, 0, 4, 1)),  # the tick ran when the request came
        (TickTimes(103.0, 200.0), (1, 2, 3, 0)),  # clocks differ
        (TickTimes(), (1, 0, 0, 5)),
    ],
)
def test_the_parts_add_up(
    clock: Clock, tick: TickTimes, expected: tuple[int, int, int, int]
) -> None:
    tallies = Tallies()
    clock.now_s = 101.0
    watch = Stopwatch(tallies, "t", 100.0)
    clock.now_s = 106.0
    tallies.tick = tick
    watch.succeeded()
    told = tallies.of("t").statistics("m").inference_stats
    parts = (told.compute_input, told.queue, told.compute_infer, told.compute_output)
    assert tuple(part.ns // 10**9 for part in parts) == expected
    assert {part.count for part in (*parts, told.success)} == {1}
    assert told.success.ns == 6 * 10**9


def test_tenants_are_counted_apart(clock: Clock) -> None:
    tallies = Tallies()
    tallies.ran({"a": 3, "b": 1})
    tallies.ran({"a": 2})
    clock.now_s = 102.0
    Stopwatch(tallies, "b", 101.5).failed()
    a, b, c = (tallies.of(tenant).statistics("m") for tenant in ("a", "b", "c"))
    assert [(s.inference_count, s.execution_count) for s in (a, b, c)] == [(5, 2), (1, 1), (0, 0)]
    assert [s.inference_stats.fail.count for s in (a, b, c)] == [0, 1, 0]
    assert b.inference_stats.fail.ns == 500_000_000
    assert (a.last_inference, c.last_inference) == (1_700_000_100_000, 0)


def test_a_tick_is_its_threads() -> None:
    before = current_tick.began_s
    current_tick.began_s = 12.5
    assert current_tick.began_s == 12.5
    current_tick.began_s = before
