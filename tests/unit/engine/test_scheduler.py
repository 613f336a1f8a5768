"""Who steps next: fair, bounded, most steps first."""

from __future__ import annotations

import numpy as np
import pytest

from carousel_server.engine.runner import Buckets
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


# -- tenants


def crowd(**sizes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows of tenants 0, 1, … in the order given; each row is ready and has a sink of its own."""
    tenants = np.repeat(np.arange(len(sizes)), list(sizes.values()))
    rows = np.arange(len(tenants))
    return rows, np.ones_like(rows), rows, tenants


def places(batch: Batch | None, tenants: np.ndarray) -> list[int]:
    """How many rows of each tenant a batch has."""
    assert batch is not None
    return np.bincount(tenants[batch.rows], minlength=int(tenants.max()) + 1).tolist()


def test_tenants_share_a_batch_equally_and_what_one_leaves_goes_to_the_others() -> None:
    flood, few, many = 1000, 2, 50
    ready = crowd(flood=flood, few=few, many=many)
    assert places(Scheduler(32, 4).select(*ready), ready[3]) == [15, 2, 15]


def test_places_that_do_not_divide_go_round() -> None:
    ready, scheduler = crowd(a=9, b=9, c=9), Scheduler(4, 1)
    turns = [places(scheduler.select(*ready), ready[3]) for _ in range(3)]
    assert sorted(turns) == [[1, 1, 2], [1, 2, 1], [2, 1, 1]]


def test_more_tenants_than_places_take_turns() -> None:
    ready, scheduler = crowd(a=5, b=1, c=1, d=1, e=7), Scheduler(2, 1)
    turns = np.sum([places(scheduler.select(*ready), ready[3]) for _ in range(5)], axis=0)
    assert turns.tolist() == [2, 2, 2, 2, 2]


def test_a_tick_is_no_longer_than_a_full_batch_while_there_are_several_tenants() -> None:
    rows, sinks, tenants = np.arange(4), np.zeros(4, np.int64), np.asarray([0, 0, 0, 1])
    steps = np.asarray([50, 50, 50, 1])
    alone = Scheduler(8, 16).select(rows, steps, sinks)
    beside = Scheduler(8, 16).select(rows, steps, sinks, tenants)
    assert alone is not None
    assert beside is not None
    assert alone.counts.tolist() == [16, 16, 16, 1]
    assert beside.counts.tolist() == [2, 2, 2, 1]


@pytest.mark.parametrize("seed", range(20))
def test_each_tenant_has_turns_as_if_the_others_were_one_session_more(seed: int) -> None:
    """In every tick: all places are used, and no tenant has less than its equal share."""
    rng = np.random.default_rng(seed)
    n, places_in_all = 60, 8
    tenants, sinks = rng.choice(5, n, p=[0.8, 0.05, 0.05, 0.05, 0.05]), rng.integers(-1, 9, n)
    scheduler, waited = Scheduler(places_in_all, 4), np.zeros(n, np.int64)
    for _ in range(80):
        steps = rng.integers(0, 3, n)
        steps[:20] = 1  # these always want to
        batch = scheduler.select(np.arange(n), steps, sinks, tenants)
        assert batch is not None
        ready = np.bincount(tenants[steps > 0], minlength=5)
        got = np.bincount(tenants[batch.rows], minlength=5)
        assert len(set(batch.rows.tolist())) == got.sum() == min(places_in_all, ready.sum())
        equal = places_in_all // np.count_nonzero(ready)
        assert (got >= np.minimum(ready, equal)).all()
        waited += 1
        waited[batch.rows] = 0
        sizes = np.bincount(tenants, minlength=5)
        assert (waited[:20] <= -(-sizes[tenants[:20]] // equal)).all()


def test_a_steady_tenant_waits_no_longer_beside_a_flood() -> None:
    """The flood has ten batches of sessions that are always ready; the other one session."""

    def longest_wait(flood: int) -> int:
        scheduler, waits, due = Scheduler(16, 4), [], 0
        tenants = np.asarray([0] * flood + [1])
        rows = np.arange(flood + 1)
        for tick in range(300):
            if tick % 3 == 0:
                due = due or tick + 1  # asked at this tick
            steps = np.ones_like(rows)
            steps[-1] = int(due > 0)
            batch = scheduler.select(rows, steps, np.zeros_like(rows), tenants)
            if batch is not None and flood in batch.rows.tolist():
                waits.append(tick + 1 - due + 1)
                due = 0
        return max(waits)

    assert longest_wait(flood=160) <= 2 * longest_wait(flood=0)


# -- ticks that tenants share


def test_a_tick_may_be_given_fewer_steps() -> None:
    ready = crowd(flood=100, steady=1)
    batch = Scheduler(32, 4).select(*ready, most_steps=8)
    assert places(batch, ready[3]) == [7, 1]
    few = crowd(flood=3, steady=1)
    batch = Scheduler(32, 16).select(few[0], few[1] * 16, *few[2:], most_steps=8)
    assert batch is not None
    assert batch.counts.tolist() == [2, 2, 2, 2]


def test_more_steps_than_a_batch_has_places_change_nothing() -> None:
    ready = crowd(flood=100, steady=1)
    batch = Scheduler(32, 4).select(*ready, most_steps=1000)
    assert places(batch, ready[3]) == [31, 1]


def test_fewer_steps_also_bound_the_chunks_of_a_lone_tenant() -> None:
    """Whole sequences of another tenant run between its ticks."""
    rows, steps, sinks = pending(r1=100, r5=100)
    assert served(Scheduler(4, 16), (rows, steps, sinks), 1) == [[1, 5]]
    batch = Scheduler(4, 16).select(rows, steps, sinks, most_steps=4)
    assert batch is not None
    assert batch.counts.tolist() == [2, 2]
    batch = Scheduler(4, 16).select(rows, steps, sinks, most_steps=1)
    assert batch is not None
    assert batch.counts.tolist() == [1]


def test_turns_go_on_as_the_number_of_steps_changes() -> None:
    ready, scheduler, seen = crowd(flood=24, steady=1), Scheduler(32, 1), np.zeros(25, np.int64)
    for most_steps in (9, 5, 7, 3, 9, 5, 7, 3):
        batch = scheduler.select(*ready, most_steps=most_steps)
        assert batch is not None
        assert len(batch.rows) == most_steps
        seen[batch.rows] += 1
    assert seen[-1] == 8
    assert seen[:24].min() == 1
    assert seen[:24].max() == 2
