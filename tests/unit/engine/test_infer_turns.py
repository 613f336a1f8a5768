"""Whole sequences of several tenants: they take turns, by steps."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

from carousel_server.core.errors import CarouselError
from carousel_server.core.limits import EngineLimits
from carousel_server.core.ports import Infer
from carousel_server.core.quotas import Quota, Quotas, TenantLimits
from carousel_server.engine.sequence_queue import SequenceQueue

from .fakes import WIDTH, Rig, RunningSum, rows

ROW_BYTES = 4 * WIDTH


def call(steps: int, tenant: str) -> Infer:
    return Infer(rows(*[1.0] * steps), tenant=tenant)


def rig(*, strict: bool = False, share: float = 0.75, **limits: int) -> Rig:
    return Rig(quotas=Quotas(TenantLimits(tenant_share=share)), strict=strict, **limits)


def ticks_of(server: Rig, wanted: Infer) -> int:
    """Ticks until a call is answered, from its submission on."""
    server.engine.submit(wanted)
    began = server.ticks
    while not wanted.reply.done():
        server.tick()
    return server.ticks - began


def assert_sums(answered: Infer, steps: int) -> None:
    got = answered.reply.result(timeout=0).view("<f4").reshape(steps, WIDTH)
    np.testing.assert_array_equal(got[:, 0], np.arange(1, steps + 1))


@pytest.mark.parametrize("strict", [False, True])
def test_two_steps_wait_at_most_twice_as_long_beside_a_flood(strict: bool) -> None:
    alone = ticks_of(rig(strict=strict), call(2, "modest"))
    server = rig(strict=strict, max_infer_queue=100)
    flood = [call(640, "flood") for _ in range(40)]
    for one in flood:
        server.engine.submit(one)
    server.tick()
    for _ in range(5):
        wanted = call(2, "modest")
        assert ticks_of(server, wanted) <= 2 * alone
        assert_sums(wanted, 2)
    assert not any(one.reply.done() for one in flood), "the flood was too small"
    server.settle()
    for one in flood:
        assert_sums(one, 640)


def test_the_steps_of_a_piece_are_divided_among_tenants_first() -> None:
    """Six sequences of one tenant run beside one of another, which goes on as fast as all six."""
    server = rig(infer_batch_steps=16)
    flood = [call(64, "flood") for _ in range(6)]
    for one in flood:
        server.engine.submit(one)
    assert ticks_of(server, call(64, "modest")) == 64 // (16 // 2)
    assert not any(one.reply.done() for one in flood)
    server.settle()
    assert_sums(flood[0], 64)


def test_the_batch_keeps_places_for_others() -> None:
    """A flood of long sequences has the batch, and another's sequence joins all the same."""
    server = rig(max_batch=4)
    for _ in range(8):
        server.engine.submit(call(640, "flood"))
    server.tick()
    sequences = server.engine._sequences
    assert len(sequences._running) == 3
    server.engine.submit(call(640, "modest"))
    server.tick()
    assert [one.call.tenant for one in sequences._running] == ["flood"] * 3 + ["modest"]


def test_what_has_failed_gives_its_places_back() -> None:
    server = rig(max_batch=4)
    bad = Infer(rows(RunningSum.poison), tenant="a")
    for _ in range(10):
        bad = Infer(rows(RunningSum.poison), tenant="a")
        server.engine.submit(bad)
        server.settle()
        assert isinstance(bad.reply.exception(timeout=0), CarouselError)
    sequences = server.engine._sequences
    assert not sequences._places._taken
    assert not sequences._output_bytes._taken


class GivenUpLate(Future[Any]):
    """A reply whose caller gives up just after somebody has looked whether it waits."""

    def done(self) -> bool:
        done = super().done()
        self.cancel()
        return done

    def cancelled(self) -> bool:
        cancelled = super().cancelled()
        self.cancel()
        return cancelled


def test_a_caller_that_gives_up_while_another_leaves_is_counted_once() -> None:
    server = rig()
    late, ends = call(640, "a"), call(1, "a")
    server.engine.submit(late)
    server.tick()
    late.reply = GivenUpLate()
    server.engine.submit(ends)
    server.settle()
    assert_sums(ends, 1)
    sequences = server.engine._sequences
    assert not len(sequences)
    assert not sequences._places._taken
    assert not sequences._output_bytes._taken


# -- the queue by itself


def queue(share: float = 0.0, **limits: int) -> SequenceQueue:
    return SequenceQueue(EngineLimits(**limits), share, ROW_BYTES)  # type: ignore[arg-type]


def turns(waiting: SequenceQueue, count: int) -> str:
    """The tenants of the next calls."""
    calls = [waiting.pop(lambda _: True) for _ in range(count)]
    return "".join(call.tenant for call in calls if call is not None)


def test_equal_sequences_take_turns_and_a_tenants_own_keep_their_order() -> None:
    waiting = queue()
    mine = [call(4, "a") for _ in range(3)]
    for one in mine:
        waiting.put(one)
    for _ in range(3):
        waiting.put(call(4, "b"))
    assert waiting.pop(lambda _: True) is mine[0]
    assert turns(waiting, 2) == "ba"
    assert waiting.pop(lambda one: one.tenant == "a") is mine[2]
    assert turns(waiting, 5) == "bb"
    assert waiting.count == 0


def test_a_long_sequence_costs_its_tenant_as_many_turns() -> None:
    waiting = queue()
    for _ in range(2):
        waiting.put(call(40, "a"))
    for _ in range(12):
        waiting.put(call(10, "b"))
    assert turns(waiting, 6) == "abbbba"


def test_whoever_was_away_has_saved_nothing_up() -> None:
    waiting = queue()
    for _ in range(50):
        waiting.put(call(10, "a"))
    turns(waiting, 40)
    for _ in range(10):
        waiting.put(call(10, "b"))
    assert turns(waiting, 8) in ("babababa", "abababab")


def test_one_that_may_not_run_keeps_nobody_else_up() -> None:
    waiting = queue()
    waiting.put(call(1000, "a"))
    waiting.put(call(2, "b"))
    assert waiting.pop(lambda one: len(one.inputs) < 100).tenant == "b"  # type: ignore[union-attr]
    assert waiting.pop(lambda one: len(one.inputs) < 100) is None
    assert waiting.count == 1


def test_the_queue_has_room_for_others() -> None:
    waiting = queue(share=0.75, max_infer_queue=8)
    for _ in range(6):
        waiting.put(call(1, "a"))
    with pytest.raises(CarouselError) as error:
        waiting.put(call(1, "a"))
    assert error.value.reason == "QUOTA_EXCEEDED"
    assert error.value.metadata["quota"] == Quota.SHARE
    waiting.put(call(1, "b"))


def test_withdrawn_calls_make_room() -> None:
    waiting = queue(max_infer_queue=2)
    first, second = call(1, "a"), call(1, "a")
    waiting.put(first)
    waiting.put(second)
    with pytest.raises(CarouselError, match="QUEUE_FULL"):
        waiting.put(call(1, "b"))
    first.reply.cancel()
    waiting.put(call(1, "b"))
    assert waiting.count == 2


def test_refusals_leave_the_queue_as_it_is() -> None:
    """Whoever is refused over and over must cost the engine little: nothing is queued anew."""
    waiting = queue(share=0.75, max_infer_queue=8)
    for _ in range(6):
        waiting.put(call(1, "a"))
    before = waiting._waiting["a"]
    for _ in range(3):
        with pytest.raises(CarouselError, match="QUOTA_EXCEEDED"):
            waiting.put(call(1, "a"))
    assert waiting._waiting["a"] is before
    for one in [*before][1:]:
        one.reply.cancel()
    waiting.put(call(1, "a"))
    assert (waiting.count, waiting._call_shares._taken["a"]) == (2, 2)
    before[0].reply.cancel()
    waiting._waiting["a"][1].reply.cancel()
    waiting._forget_cancelled()
    assert (waiting.count, waiting._bytes, dict(waiting._waiting)) == (0, 0, {})


def test_a_call_that_is_withdrawn_while_others_are_forgotten_is_counted_once() -> None:
    waiting = queue(max_infer_queue=2)
    late, gone = call(1, "a"), call(1, "a")
    late.reply = GivenUpLate()
    gone.reply.cancel()
    waiting.put(late)
    waiting.put(gone)
    waiting.put(call(1, "a"))
    waiting.put(call(1, "a"))
    assert waiting.count == len(waiting._waiting["a"]) == 2


def test_turns_of_tenants_that_are_gone_are_forgotten() -> None:
    waiting = queue()
    for number in range(100):
        waiting.put(call(2, f"t{number}"))
    assert len(turns(waiting, 100)) > 0
    waiting.put(call(1, "x"))
    waiting.put(call(1, "x"))
    turns(waiting, 2)
    waiting.put(call(1, "x"))
    turns(waiting, 1)
    assert len(waiting._next) <= 1
