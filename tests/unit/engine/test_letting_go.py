"""Sessions that change hands: what a new binding is told, and what becomes of lapsed ones."""

from __future__ import annotations

import pytest

from carousel_server.core.errors import CarouselError
from carousel_server.core.ports import Activate, Bind
from carousel_server.core.store import Release, SessionKey
from carousel_server.core.types import Durability

from .durable_rig import DurableRig
from .fakes import RecordingSink

KEY = SessionKey("t", "s")


def test_a_new_binding_gets_no_outputs_that_it_has_not_asked_for() -> None:
    rig, older, newer = DurableRig(), RecordingSink(), RecordingSink()
    ref = rig.open_durable(durability=Durability.SYNC)
    rig.attach(ref, older)
    rig.send(older, ref, 1, 1, 2)
    rig.tick()
    command = Bind(ref, newer, 7)
    rig.engine.submit(command)
    rig.tick()
    assert not command.reply.done(), "bound before the store had all"
    rig.rest()
    assert command.reply.result(timeout=0).applied == 2
    assert (newer.steps, newer.confirmed) == ([], [])


def test_sessions_whose_lease_has_lapsed_are_given_back() -> None:
    rig, sink = DurableRig(), RecordingSink()
    ref = rig.open_durable()
    rig.attach(ref, sink)
    rig.store.lease_lost += 1
    rig.tick()
    assert [error.reason for _, error in sink.gone] == ["LEASE_LOST"]
    assert [type(request) for request in rig.store.waiting] == [Release]
    rig.store.run()
    assert not rig.store.store.read(KEY).held


def test_giving_back_a_lapsed_session_does_not_take_it_from_its_next_holder() -> None:
    rig, sink = DurableRig(), RecordingSink()
    rig.attach(rig.open_durable(), sink)
    rig.store.store.acquire(KEY, epoch_floor=0, new=None)
    rig.store.lease_lost += 1
    rig.turn()
    assert rig.store.store.read(KEY).held


@pytest.mark.parametrize("noticed", [True, False])
def test_a_session_is_not_run_under_a_lease_that_is_over(noticed: bool) -> None:
    """A replica is stopped between the store's answer and the row, for longer than its lease lasts."""
    rig = DurableRig()
    rig.open_durable()
    again = DurableRig(medium=rig.medium)
    record = again.store.store.acquire(KEY, epoch_floor=0, new=None)
    if noticed:
        again.store.lease_lost += 1
    else:
        again.store.lease_until_s = again.now - 1.0
    command = Activate(record, lease=0)
    again.engine.submit(command)
    with pytest.raises(CarouselError) as caught:
        again.until(command.reply)
    assert caught.value.reason == "SESSION_PARKED", "whoever asked for it asks the store again"
    assert again.metrics.moves == []
