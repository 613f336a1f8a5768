"""Slots among tenants whose sessions a store keeps: who gives a row up, and who waits for one."""

from __future__ import annotations

import pytest

from carousel_server.core.errors import CarouselError
from carousel_server.core.quotas import Quota, Quotas, TenantLimits
from carousel_server.core.types import Phase
from carousel_server.residency.waiting_room import _MOST_WAITING, WaitingRoom

from .durable_rig import DurableRig
from .fakes import RecordingSink


def made(slots: int, **limits: float) -> DurableRig:
    tenant = TenantLimits(**limits)  # type: ignore[arg-type]
    return DurableRig(slots=slots, quotas=Quotas(tenant))


def opened(rig: DurableRig, tenant: str, *names: str) -> None:
    """Opens sessions one after the other, so that the first was idle for longest."""
    for name in names:
        rig.now += 1
        rig.open_durable(name, tenant=tenant)
    rig.rest()


def resident(rig: DurableRig, tenant: str) -> set[str]:
    """A tenant's sessions that have a row."""
    return {view.id for view in rig.engine._rows.views(tenant, "", 100)}


@pytest.mark.parametrize("limits", [{"tenant_share": 0.75}, {"tenant_sessions": 3}])
def test_a_tenant_at_a_quota_parks_its_own(limits: dict[str, float]) -> None:
    rig = made(4, **limits)
    opened(rig, "modest", "m")
    opened(rig, "greedy", "g1", "g2", "g3", "g4", "g5")
    assert resident(rig, "modest") == {"m"}
    assert resident(rig, "greedy") == {"g3", "g4", "g5"}
    parked = rig.until(rig.catalog.peek("greedy", "g1"))
    assert parked.phase is Phase.PARKED, "nothing is lost"


def test_a_full_slab_takes_the_row_of_the_tenant_that_has_most() -> None:
    rig = made(4)
    opened(rig, "modest", "m")  # idle for longest
    opened(rig, "greedy", "g1", "g2", "g3")
    opened(rig, "new", "n")
    assert resident(rig, "modest") == {"m"}
    assert resident(rig, "greedy") == {"g2", "g3"}


def test_without_an_idle_session_of_its_own_a_tenant_is_refused() -> None:
    rig, sink = made(4, tenant_share=0.5), RecordingSink()
    for tag, name in enumerate(("g1", "g2")):
        ref = rig.open_durable(name, tenant="greedy")
        rig.attach(ref, sink, tag)
        rig.send(sink, ref, 1, 1, tag=tag)
    rig.tick()  # both have run what the store lacks
    asked = rig.catalog.resume("greedy", "g3")
    rig.store.run()
    with pytest.raises(CarouselError, match="SESSION_NOT_FOUND"):
        rig.until(asked)
    rig.open_durable("m", tenant="modest")


def test_tenants_take_turns_at_slots_that_come_free() -> None:
    """Four sessions of one tenant wait when the only one of another comes."""
    rig, sink = made(2), RecordingSink()
    opened(rig, "greedy", "g1", "g2", "g3", "g4")
    opened(rig, "modest", "m")
    rig.now += 61
    rig.rest()
    assert rig.engine._rows.slots.used == 0
    for tag, name in enumerate(("b1", "b2")):
        ref = rig.open_durable(name, tenant="busy")
        rig.attach(ref, sink, tag)
        rig.send(sink, ref, 1, 1, tag=tag)
    rig.tick()
    wanted = {name: rig.catalog.resume("greedy", name) for name in ("g1", "g2", "g3", "g4")}
    wanted["m"] = rig.catalog.resume("modest", "m")
    order: list[str] = []
    for name, reply in wanted.items():
        reply.add_done_callback(lambda _, name=name: order.append(name))
    for _ in range(40):
        rig.now += 0.02
        rig.turn()
    assert order[:2] == ["g1", "m"]
    assert order[2:] == ["g2", "g3", "g4"]
    assert all(reply.exception() is None for reply in wanted.values())


def test_a_tenant_that_waits_for_its_quota_keeps_nobody_else_up() -> None:
    rig, sink = made(4, tenant_sessions=1), RecordingSink()
    opened(rig, "greedy", "g2")
    opened(rig, "modest", "m")
    rig.now += 61
    rig.rest()
    ref = rig.open_durable("g1", tenant="greedy")
    rig.attach(ref, sink)
    rig.send(sink, ref, 1, 1)
    rig.tick()  # it has run what the store lacks, so it cannot be parked
    first = rig.catalog.resume("greedy", "g2")
    second = rig.catalog.resume("modest", "m")
    rig.store.run()
    rig.tick()
    assert not first.done()
    assert second.done()
    rig.until(first)
    assert resident(rig, "greedy") == {"g2"}


def test_the_quota_that_is_waited_for_in_vain_is_told() -> None:
    rig, sink = made(4, tenant_sessions=1), RecordingSink()
    opened(rig, "greedy", "g2")
    rig.now += 61
    rig.rest()
    ref = rig.open_durable("g1", tenant="greedy")
    rig.attach(ref, sink)
    rig.send(sink, ref, 1, 1)
    rig.tick()
    asked = rig.catalog.resume("greedy", "g2")
    rig.store.run()
    rig.tick()
    rig.now += 60
    rig.tick()
    error = asked.exception(timeout=0)
    assert isinstance(error, CarouselError)
    assert error.metadata["quota"] == Quota.SESSIONS


def test_the_waiting_room_has_places_for_others() -> None:
    room = WaitingRoom(None, lambda *_: None, share=0.75)  # type: ignore[arg-type]
    for _ in range(_MOST_WAITING * 3 // 4):
        room._add("greedy", None)  # type: ignore[arg-type]
    assert not room._shares.fits("greedy")
    assert room._shares.fits("modest")
