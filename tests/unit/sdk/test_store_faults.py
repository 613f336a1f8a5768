"""What a client says while the server's store takes nothing: the store's fault, not the caller's patience."""

from __future__ import annotations

import pytest

import carousel
from carousel._core.retry import RetryPolicy, RetrySchedule
from carousel.testing.refusals import Refusal
from carousel_protos.v1 import carousel_pb2 as pb

from .miniature import MiniServer, World, fold, outputs_of

XS = list(range(1, 13))


def store_notice(world: World, session_id: str = "s") -> None:
    """The server says that the session's steps wait for its store."""
    session, stream = world.server.sessions[session_id], world.stream
    assert stream is not None
    (handle,) = [handle for handle, bound in stream.bound.items() if bound is session]
    stream.refuse(handle, Refusal("STORE_UNAVAILABLE", "the disk is full", accepted=1), 1)
    world.deliver()


@pytest.mark.parametrize("durability", [pb.DURABILITY_ASYNC, pb.DURABILITY_SYNC])
def test_a_wait_for_the_store_is_named_when_time_is_up(durability: int) -> None:
    world = World(MiniServer(durability))
    lane = world.open()
    ticket = world.submit(lane, XS)  # more than the window holds
    world.deliver()
    assert isinstance(ticket.overdue(3.0), carousel.ReplyTimeoutError)
    store_notice(world)
    error = ticket.overdue(3.0)
    assert isinstance(error, carousel.StoreUnavailableError)
    assert error.message.startswith("the disk is full")
    assert (lane.phase.name, ticket.error) == ("BOUND", None)
    for _ in range(len(XS)):
        world.server.commit()
        world.deliver()
    assert outputs_of(ticket) == fold(XS)
    assert isinstance(ticket.overdue(3.0), carousel.ReplyTimeoutError)


def test_a_detach_that_waits_for_the_store_says_so() -> None:
    world = World()
    lane = world.open()
    world.submit(lane, XS[:3])
    world.deliver()
    store_notice(world)
    ticket, effects = world.core.unbind(lane, close=False)
    world.do(effects)
    assert ticket is not None
    assert isinstance(ticket.overdue(3.0), carousel.StoreUnavailableError)


def test_a_session_that_cannot_be_bound_for_its_store_says_so() -> None:
    world = World()
    lane = world.open()
    ticket = world.submit(lane, XS[:2])
    assert world.stream is not None
    world.stream.unbind(world.server.sessions["s"], Refusal("LEASE_LOST"))
    world.server.refuse_binds.append(Refusal("STORE_UNAVAILABLE", "no disk"))
    world.deliver()
    world.wait_until_due()
    world.deliver()
    assert isinstance(ticket.overdue(3.0), carousel.StoreUnavailableError)


def test_a_lost_connection_is_no_word_of_the_server() -> None:
    world = World()
    lane = world.open()
    ticket = world.submit(lane, XS[:2])
    world.break_()
    assert isinstance(ticket.overdue(3.0), carousel.ReplyTimeoutError)


def test_a_call_that_runs_out_of_time_names_the_stores_fault_before() -> None:
    schedule = RetrySchedule(RetryPolicy(), deadline_s=10.0)
    late, fault = carousel.ReplyTimeoutError("late"), carousel.StoreUnavailableError("no disk")
    assert schedule.store_fault(late) is None
    assert schedule.delay_s(fault, 0.0) is not None
    assert schedule.delay_s(late, 9.9) is None
    assert schedule.store_fault(late) is fault
    other = carousel.SessionNotFoundError("gone")
    assert schedule.store_fault(other) is None
