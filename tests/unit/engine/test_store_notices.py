"""What an engine tells the listeners of sessions whose store is at fault."""

from __future__ import annotations

import pytest

from carousel_server.core.errors import STORE_WAITS
from carousel_server.core.ports import Bind
from carousel_server.core.types import Durability

from .durable_rig import DurableRig
from .fakes import RecordingSink
from .test_durability import refusal, sums


def fail_commits(rig: DurableRig, times: int = 1) -> None:
    """The store refuses the next groups."""
    for _ in range(times):
        rig.now += 0.2
        rig.tick()
        rig.store.refuse()
        rig.tick()


@pytest.mark.parametrize("durability", [Durability.ASYNC, Durability.SYNC])
def test_a_session_that_waits_for_a_store_at_fault_is_told_so(durability: Durability) -> None:
    rig, sink = DurableRig(), RecordingSink()
    ref = rig.open_durable(durability=durability)
    rig.attach(ref, sink)
    rig.send(sink, ref, 1, 1, 2)
    rig.tick()
    fail_commits(rig)
    [(tag, seq, error)] = sink.refusals
    assert (tag, seq, error.reason) == (1, 1, "STORE_UNAVAILABLE")
    assert error.metadata == {STORE_WAITS: "1"}
    assert "the store is away" in error.message
    assert error.retry_after_s == 0.1


def test_what_was_accepted_stays_accepted_and_comes_out_once() -> None:
    rig, sink = DurableRig(), RecordingSink()
    ref = rig.open_durable(durability=Durability.SYNC)
    rig.attach(ref, sink)
    rig.send(sink, ref, 1, 1, 2)
    rig.tick()
    fail_commits(rig, 3)
    assert not sink.steps
    rig.send(sink, ref, 3, 3)
    rig.rest()
    assert sink.of(1) == sums(1, 2, 3)
    assert not sink.gone


def test_one_outage_is_told_once_a_second_not_at_every_try() -> None:
    rig, sink = DurableRig(), RecordingSink()
    ref = rig.open_durable()
    rig.attach(ref, sink)
    rig.send(sink, ref, 1, 1)
    rig.tick()
    fail_commits(rig, 4)
    assert len(sink.refusals) == 1
    fail_commits(rig, 4)
    assert len(sink.refusals) == 2


def test_sessions_that_wait_for_nothing_are_told_nothing() -> None:
    rig, sink, idle = DurableRig(), RecordingSink(), RecordingSink()
    busy = rig.open_durable()
    rig.attach(busy, sink)
    other = rig.open_durable("other")
    rig.attach(other, idle)
    rig.send(idle, other, 1, 1)
    rig.rest()
    rig.send(sink, busy, 1, 1)
    rig.tick()
    fail_commits(rig)
    assert sink.reasons == ["STORE_UNAVAILABLE"]
    assert not idle.refusals


def test_a_bind_in_the_outage_is_refused_beside_the_notice() -> None:
    rig, sink = DurableRig(), RecordingSink()
    ref = rig.open_durable()
    rig.attach(ref, sink)
    rig.send(sink, ref, 1, 1)
    rig.tick()
    fail_commits(rig)
    command = Bind(ref, RecordingSink(), 2)
    rig.engine.submit(command)
    rig.tick()
    rig.now += 0.2
    rig.tick()
    rig.store.refuse()
    rig.tick()
    assert refusal(rig, command.reply).reason == "STORE_UNAVAILABLE"
