"""A tick that several tenants share is short, whatever a step costs. A tenant alone has whole batches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from carousel_server.core.ports import Bind, Infer, Open, StepBlock
from carousel_server.core.types import OpenSpec, SessionRef
from carousel_server.engine.tick_budget import LEAST_ROWS, Sharing, TickBudget

from .fakes import RecordingSink, Rig, RunningSum, block, rows

FLOOD = 512
TICK_S = 0.0003
"""What a tick costs beside its rows, in `Timed`."""


class Timed(RunningSum):
    """Takes time by a clock that the test reads: a fixed time a step, and more for each row of it."""

    def __init__(self, row_s: float) -> None:
        super().__init__()
        self.row_s = row_s
        self.spend: Callable[[float], None] = lambda _s: None

    def step(
        self, x: Tensor, state: tuple[Tensor, ...], slots: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        self.spend(TICK_S + len(x) * self.row_s)
        return super().step(x, state, slots)

    def sequence(
        self, x: Tensor, lengths: Tensor, state: tuple[Tensor, ...] | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        self.spend(TICK_S + int(lengths.sum()) * self.row_s)
        return super().sequence(x, lengths, state)


def rig_of(row_s: float, **limits: float) -> Rig:
    """An engine of which a full batch takes 256 × `row_s`."""
    model = Timed(row_s)
    rig = Rig(model, **{"slots": FLOOD + 8, "max_batch": 256, "inbox_commands": 10_000, **limits})

    def spend(seconds: float) -> None:
        rig.now += seconds

    model.spend = spend
    return rig


class Flood:
    """A tenant with more sessions than a batch holds; each always has steps to run."""

    def __init__(self, rig: Rig, tenant: str = "flood") -> None:
        self.rig, self.sink, self.sent = rig, RecordingSink(), 0
        opens = [Open(OpenSpec(tenant, "")) for _ in range(FLOOD)]
        rig.together(opens)
        self.refs: list[SessionRef] = [one.reply.result(timeout=0)[0] for one in opens]
        rig.together([Bind(ref, self.sink, tag) for tag, ref in enumerate(self.refs)])

    def press(self) -> None:
        """Sends one more step of each session, once half of the last ones have run."""
        if 2 * len(self.sink.steps) >= FLOOD * (2 * self.sent - 1):
            self.sent += 1
            acks = [max(0, self.sent - 4)] * FLOOD
            ones, tags = rows(*[1.0] * FLOOD), list(range(FLOOD))
            firsts = [self.sent] * FLOOD
            self.rig.engine.submit(
                StepBlock(self.sink, tags, self.refs, firsts, 1, ones, acks, tenant="flood")
            )

    def tick(self) -> tuple[int, float]:
        """Presses and ticks; returns how many steps ran, and how long that took."""
        self.press()
        ran, began_s = len(self.rig.metrics.ticks), self.rig.now
        self.rig.tick()
        steps = sum(steps for _, _, steps in self.rig.metrics.ticks[ran:])
        return steps, self.rig.now - began_s


def test_a_shared_tick_takes_no_longer_than_the_setting() -> None:
    rig = rig_of(20e-6, shared_tick_s=0.002)
    steady, sink = rig.open(tenant="steady"), RecordingSink()
    rig.bind(steady, sink)
    flood = Flood(rig)
    took: list[float] = []
    for seq in range(1, 41):
        rig.engine.submit(block(sink, steady, seq, 1.0, acks=[seq - 1]))
        took.append(flood.tick()[1])
    assert len(sink.steps) == 40, "a step of the steady tenant did not run in its tick"
    assert max(took[10:]) <= 0.002 * 1.15
    assert min(took[10:]) >= 0.002 * 0.7, "a shorter tick than asked for costs throughput"


def test_a_step_beside_a_flood_waits_at_most_twice_as_long_as_the_setting() -> None:
    """Of a steady tenant whose steps come at any time of a tick, at 50 a second."""
    rig = rig_of(50e-6, shared_tick_s=0.002)
    steady, sink = rig.open(tenant="steady"), RecordingSink()
    rig.bind(steady, sink)
    flood = Flood(rig)
    flood.tick()
    waits, due_s = list[float](), rig.now
    while len(waits) < 120:
        seq = len(sink.steps) + 1
        if rig.now < due_s:
            flood.tick()
            continue
        rig.engine.submit(block(sink, steady, seq, 1.0, acks=[seq - 1]))
        flood.tick()
        assert len(sink.steps) == seq
        waits.append(rig.now - due_s)
        due_s += 0.02
    assert max(waits[10:]) <= 2 * 0.002 * 1.15


def test_a_tenant_alone_has_whole_batches() -> None:
    """Also beside sessions of others that have had no step for a second."""
    rig = rig_of(20e-6, shared_tick_s=0.001)
    steady, sink = rig.open(tenant="steady"), RecordingSink()
    rig.bind(steady, sink)
    flood = Flood(rig)
    assert [flood.tick()[0] for _ in range(3)] == [256] * 3
    rig.engine.submit(block(sink, steady, 1, 1.0))
    assert [flood.tick()[0] for _ in range(9)][-1] < 128
    rig.now += 1.0
    assert [flood.tick()[0] for _ in range(3)] == [256] * 3


def test_no_bound_is_a_full_batch() -> None:
    rig = rig_of(1.0, shared_tick_s=0)
    steady, sink = rig.open(tenant="steady"), RecordingSink()
    rig.bind(steady, sink)
    flood = Flood(rig)
    for seq in range(1, 4):
        rig.engine.submit(block(sink, steady, seq, 1.0))
        assert flood.tick()[0] == 256


def test_a_bound_costs_nothing_where_ticks_are_short() -> None:
    """Such as on a GPU, where a batch takes as long as a row."""
    rig = rig_of(1e-7, shared_tick_s=0.002)
    steady, sink = rig.open(tenant="steady"), RecordingSink()
    rig.bind(steady, sink)
    flood = Flood(rig)
    for seq in range(1, 30):
        rig.engine.submit(block(sink, steady, seq, 1.0, acks=[seq - 1]))
        assert flood.tick()[0] == 256


def test_a_padded_batch_is_not_made_smaller_than_its_padding() -> None:
    """In strict mode each batch takes as long as a full one."""
    rig = Rig(Timed(1.0), strict=True, slots=FLOOD + 8, max_batch=256, shared_tick_s=0.001)
    steady, sink = rig.open(tenant="steady"), RecordingSink()
    rig.bind(steady, sink)
    flood = Flood(rig)
    for seq in range(1, 10):
        rig.engine.submit(block(sink, steady, seq, 1.0, acks=[seq - 1]))
        assert flood.tick()[0] == 256


def test_whole_sequences_share_a_tick_with_steps_of_others() -> None:
    """Pieces of a flood of Infer are as short, while a session of another tenant steps."""
    rig = rig_of(20e-6, shared_tick_s=0.002)
    steady, sink = rig.open(tenant="steady"), RecordingSink()
    rig.bind(steady, sink)
    calls = [Infer(rows(*[1.0] * 2000), tenant="flood") for _ in range(4)]
    for call in calls:
        rig.engine.submit(call)
    took: list[float] = []
    for seq in range(1, 31):
        began_s = rig.now
        rig.engine.submit(block(sink, steady, seq, 1.0, acks=[seq - 1]))
        rig.tick()
        rig.tick()  # without a step of a session
        took.append(rig.now - began_s)
    assert max(took[10:]) <= 2 * 0.002 * 1.15 + 2 * TICK_S
    assert not any(call.reply.done() for call in calls), "the flood was too small"
    rig.settle()
    for call in calls:
        sums = call.reply.result(timeout=0).view("<f4").reshape(2000, -1)
        np.testing.assert_array_equal(sums[:, 0], np.arange(1, 2001))


def test_whole_sequences_of_one_tenant_run_in_long_pieces() -> None:
    rig = rig_of(20e-6, shared_tick_s=0.001)
    calls = [Infer(rows(*[1.0] * 640), tenant="only") for _ in range(4)]
    for call in calls:
        rig.engine.submit(call)
    rig.settle()
    assert rig.ticks == 640 // 64


@pytest.mark.parametrize("shared_tick_s", [0, 1e-9, 0.0005])
def test_outputs_do_not_depend_on_the_bound(shared_tick_s: float) -> None:
    rig = rig_of(10e-6, shared_tick_s=shared_tick_s)
    rng = np.random.default_rng(3)
    tenants = [Flood(rig, "a")]
    sink, steady = RecordingSink(), rig.open(tenant="b")
    rig.bind(steady, sink)
    inputs = rng.integers(-9, 9, 50).astype(float)
    for seq, value in enumerate(inputs.tolist(), 1):
        rig.engine.submit(block(sink, steady, seq, value, acks=[seq - 1]))
        tenants[0].tick()
    rig.settle()
    assert [row[0] for _, row in sink.of(1)] == np.cumsum(inputs).tolist()
    for tag in (0, 1, FLOOD - 1):
        steps = tenants[0].sink.of(tag)
        assert steps == [(seq, [seq, -seq]) for seq in range(1, tenants[0].sent + 1)]


# -- the parts


def test_tenants_share_until_a_second_after_the_last_change() -> None:
    sharing = Sharing()
    assert not sharing.shared(0.0)
    sharing.worked(["a"], 0.0)
    assert not sharing.shared(0.0)
    sharing.worked(["a", "b"], 5.0)
    sharing.worked(["b"], 5.5)
    assert sharing.shared(5.9)
    sharing.worked(["b"], 5.9)
    assert not sharing.shared(6.0)
    sharing.worked(["a"], 9.0)
    assert sharing.shared(9.5)
    sharing.worked([], 10.0)
    assert not sharing.shared(10.0)


@pytest.mark.parametrize("row_s", [5e-6, 10e-6, 40e-6])
def test_a_budget_finds_the_steps_that_take_the_time(row_s: float) -> None:
    budget = TickBudget(0.002, 16, 256)
    assert budget.steps == 256
    for _ in range(60):
        budget.ran(budget.steps, TICK_S + budget.steps * row_s)
    wanted = min((0.002 - TICK_S) / row_s, 256)
    assert budget.steps == pytest.approx(wanted, rel=0.05)


def test_a_pause_of_the_machine_halves_a_budget_and_no_more() -> None:
    budget = TickBudget(0.002, 16, 256)
    budget.ran(256, 5.0)
    assert budget.steps == 128
    for _ in range(8):
        budget.ran(budget.steps, 0.0)
    assert budget.steps == 256


def test_a_budget_has_a_least_size_and_small_ticks_do_not_change_it() -> None:
    budget = TickBudget(0.002, LEAST_ROWS, 256)
    for _ in range(20):
        budget.ran(1, 1.0)
    assert budget.steps == 256
    for _ in range(20):
        budget.ran(256, 1.0)
    assert budget.steps == LEAST_ROWS
    assert TickBudget(0.002, LEAST_ROWS, 8).steps == 8


def test_the_fakes_clock_moves_with_the_rows() -> None:
    rig = rig_of(0.001)
    ref, sink = rig.open(), RecordingSink()
    rig.bind(ref, sink)
    rig.engine.submit(block(sink, ref, 1, 1.0))
    began_s = rig.now
    with torch.inference_mode():
        rig.engine.tick()
    assert rig.now - began_s == pytest.approx(TICK_S + 4 * 0.001)  # padded to four rows
