"""Who steps next: fair, bounded, most steps first."""

from __future__ import annotations

import numpy as np
import pytest

from carousel_server.engine.buckets import Buckets
from carousel_server.engine.scheduler import Batch, Scheduler


def pending(**rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of ten rows, how many steps each could run; all of one sink."""
    steps = np.zeros(10, np.int64)
    for name, count in rows.items():
        steps[int(name[1:])] = count
    return np.arange(10), steps, np.zeros(10, np.int64)


def served(scheduler: Scheduler, ready: tuple[np.ndarray, ...], ticks: int) -> list[list[int]]:
    """The rows of some ticks."""
    turns = [scheduler.select(*ready) for _ in range(ticks)]
    return [sorted(batch.rows.tolist()) for batch in turns if batch is not None]


def test_nobody_ready_is_no_batch() -> None:
    assert Scheduler(4, 4).select(*pending()) is None


def test_everybody_ready_steps_together() -> None:
    batch = Scheduler(4, 4).select(*pending(r1=1, r5=1, r9=1))
    assert batch is not None
    assert batch.rows.tolist() == [1, 5, 9]
    assert batch.counts.tolist() == [1, 1, 1]
    assert batch.steps == 1


def test_a_session_gets_at_most_a_chunk_and_the_longest_stand_first() -> None:
    batch = Scheduler(4, 4).select(*pending(r1=1, r5=100, r9=3, r2=3))
    assert batch is not None
    assert batch.rows.tolist() == [5, 2, 9, 1]
    assert batch.counts.tolist() == [4, 3, 3, 1]
    assert [batch.active(step) for step in range(5)] == [4, 3, 3, 1, 0]


def test_more_than_fit_take_turns() -> None:
    ready = pending(r0=9, r3=9, r4=9, r8=9, r9=9)
    turns = served(Scheduler(2, 1), ready, 5)
    assert turns == [[0, 3], [4, 8], [0, 9], [3, 4], [8, 9]]


def test_the_turns_go_from_sink_to_sink() -> None:
    rows, steps, _ = pending(r0=9, r1=9, r2=9, r3=9, r4=9, r5=9)
    sinks = np.asarray([7, -1, 7, -1, 3, 3, 0, 0, 0, 0])
    assert served(Scheduler(2, 1), (rows, steps, sinks), 4) == [[1, 3], [4, 5], [0, 2], [1, 3]]
    turns = served(Scheduler(4, 1), (rows, steps, sinks), 3)
    assert turns == [[1, 3, 4, 5], [0, 1, 2, 3], [0, 2, 4, 5]]


@pytest.mark.parametrize("seed", range(20))
def test_nobody_waits_for_more_than_a_round(seed: int) -> None:
    """Whoever stays ready steps again before anybody else has stepped twice in between."""
    rng = np.random.default_rng(seed)
    sinks, scheduler = rng.integers(-1, 4, 30), Scheduler(7, 1)
    waited = np.zeros(30, np.int64)
    for _ in range(60):
        steps = rng.integers(0, 3, 30)
        steps[:5] = 1  # these always want to
        batch = scheduler.select(np.arange(30), steps, sinks)
        assert batch is not None
        assert (steps[batch.rows] > 0).all()
        waited += 1
        waited[batch.rows] = 0
        assert waited[:5].max() <= -(-30 // 7)


def test_while_some_wait_for_their_turn_each_takes_one_step() -> None:
    """A session with much to run must not make the others' turn come later."""
    batch = Scheduler(2, 4).select(*pending(r1=100, r5=100, r9=1))
    assert batch is not None
    assert batch.counts.tolist() == [1, 1]
    batch = Scheduler(3, 4).select(*pending(r1=100, r5=100, r9=1))
    assert batch is not None
    assert batch.counts.tolist() == [4, 4, 1]


def test_active_is_a_prefix() -> None:
    batch = Batch(np.arange(3), np.asarray([2, 2, 1]))
    assert [batch.active(0), batch.active(1), batch.active(2)] == [3, 2, 0]


def test_buckets_waste_at_most_half_and_hold_every_size() -> None:
    buckets = Buckets(256, strict=False)
    assert buckets.sizes[0] == 4
    assert buckets.sizes[-1] == 256
    for rows in range(1, 257):
        size = buckets.of(rows)
        assert rows <= size
        assert rows <= 8 or size <= 2 * rows
        assert rows < 16 or size <= 1.5 * rows + 1
    assert Buckets(1, strict=False).sizes == [1]
    assert Buckets(100, strict=False).of(99) == 100


@pytest.mark.parametrize("rows", [1, 7, 32])
def test_strict_has_one_bucket(rows: int) -> None:
    assert Buckets(32, strict=True).of(rows) == 32


@pytest.mark.parametrize("strict", [False, True])
def test_where_bits_never_depend_on_the_batch_nothing_is_padded(strict: bool) -> None:
    buckets = Buckets(32, strict=strict, invariant=True)
    assert [buckets.of(rows) for rows in range(1, 33)] == list(range(1, 33))
