"""reconnect_s begins when a draining server is gone, not when it begins to drain."""

from __future__ import annotations

import random

import pytest

import carousel
from carousel._core.addresses import Addresses
from carousel._core.attach import AttachCore
from carousel._core.generation_replay import GenerationReplay
from carousel._core.retry import RetryPolicy
from carousel._core.tickets import BindTicket
from carousel_protos.v1 import carousel_pb2 as pb

RECONNECT_S = 30.0
HOST = "host:1"
POLICY = RetryPolicy(reconnect_s=RECONNECT_S)
LOST = carousel.ConnectionLostError("reset")
DRAINING = carousel.DrainingError("draining", retry_after_s=1.0)


def bound_core() -> tuple[AttachCore, BindTicket]:
    core = AttachCore(Addresses((HOST,)), POLICY, rng=random.Random(0))
    core.connected(HOST)
    core.receive(HOST, pb.AttachResponse(welcome=pb.Welcome()), 0.0)
    ticket, _ = core.bind("s")
    session = pb.Session(id="s", window_steps=8, durability=pb.DURABILITY_ASYNC, epoch=1)
    core.receive(HOST, pb.AttachResponse(bound=pb.Bound(handle=1, session=session)), 0.0)
    return core, ticket


def lives(core: AttachCore, ticket: BindTicket, now_s: float) -> bool:
    core.due(now_s)
    return ticket.lane.error is None


def test_a_long_drain_costs_no_patience() -> None:
    core, ticket = bound_core()
    core.receive(HOST, pb.AttachResponse(drain=pb.Drain()), 1.0)
    assert lives(core, ticket, 100.0), "the stream is still up"
    core.broken(HOST, LOST, 100.0)
    assert lives(core, ticket, 100.0 + RECONNECT_S - 0.1)
    assert not lives(core, ticket, 100.0 + RECONNECT_S)


def test_a_server_that_says_that_it_drains_is_there() -> None:
    core, ticket = bound_core()
    core.broken(HOST, LOST, 0.0)
    for now_s in (20.0, 40.0, 60.0):  # looks for it, and finds it draining
        core.connected(HOST)
        core.broken(HOST, DRAINING, now_s)
        assert lives(core, ticket, now_s + RECONNECT_S - 0.1)
    core.connected(HOST)
    core.broken(HOST, LOST, 80.0)
    assert not lives(core, ticket, 60.0 + RECONNECT_S), "a lost one is not"


@pytest.mark.parametrize("error", [DRAINING, LOST])
def test_a_text_waits_for_the_end_of_a_drain_too(error: carousel.CarouselError) -> None:
    told = GenerationReplay(
        pb.GenerateRequest(model="m"),
        POLICY,
        first_answer_by_s=10.0,
        deadline_s=1000.0,
        rng=random.Random(0),
    )
    told.call_begins()
    told.take(pb.GenerateResponse(tokens=[pb.Token(id=1, text="a", seq=1)]))
    assert told.delay_s(LOST, 0.0) is not None
    assert told.delay_s(error, 20.0) is not None
    assert (told.delay_s(LOST, 40.0) is not None) == (error is DRAINING)
    assert told.delay_s(LOST, 60.0) is None
