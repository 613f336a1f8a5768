"""The stream of a client: what may be sent, what is to be done, and when the next one is opened."""

from __future__ import annotations

import random

import pytest

import carousel
from carousel._core.link import Link
from carousel._core.tickets import Ticket
from carousel._error_bases import ConnectionLostError
from carousel_protos.v1 import carousel_pb2 as pb

LOST = ConnectionLostError("lost")


@pytest.fixture
def link() -> Link:
    return Link(carousel.RetryPolicy(first_delay_s=0.1), random.Random(1))


def test_it_takes_binds_while_there_is_a_stream_that_does_not_drain(link: Link) -> None:
    assert not link.may_bind
    link.opened()
    assert link.may_bind
    link.on_drain(pb.Drain())
    assert not link.may_bind
    link.lost(1.0)
    link.opened()
    assert link.may_bind
    link.close(LOST)
    assert not link.may_bind


@pytest.mark.parametrize(
    ("policy", "mends"),
    [
        (carousel.RetryPolicy(), True),
        (carousel.RetryPolicy(attempts=2), True),
        (carousel.RetryPolicy(attempts=1), False),
        (carousel.RetryPolicy(reconnect_s=0), False),
    ],
)
def test_a_lost_connection_is_mended_unless_the_policy_forbids_it(
    policy: carousel.RetryPolicy, mends: bool
) -> None:
    assert Link(policy, random.Random(1)).mends is mends


def test_effects_are_handed_out_once_in_their_order(link: Link) -> None:
    link.opened()
    ticket = Ticket()
    link.send(hello=pb.Hello(client="a"))
    link.send(replay=pb.Replay(handle=3))
    link.end(ticket)
    effects = link.take_effects(7.0)
    assert [request.WhichOneof("event") for request in effects.send] == ["hello", "replay"]
    assert effects.ended == [ticket]
    assert (effects.wake_at_s, effects.reconnect_in_s) == (7.0, None)
    assert link.take_effects() == type(effects)()


def test_what_a_lost_stream_was_to_send_is_dropped_but_callers_are_woken(link: Link) -> None:
    link.opened()
    ticket = Ticket()
    link.send(hello=pb.Hello())
    link.end(ticket)
    link.lost(2.0)
    effects = link.take_effects()
    assert (effects.send, effects.ended, link.now_s) == ([], [ticket], 2.0)


def test_pauses_grow_until_a_server_answers(link: Link) -> None:
    def pause_s() -> float:
        link.reopen(LOST)
        pause_s = link.take_effects().reconnect_in_s
        assert pause_s is not None
        return pause_s

    assert 0.1 <= pause_s() <= 0.15
    assert 0.2 <= pause_s() <= 0.3
    link.on_welcome(pb.Welcome())
    assert link.welcomed
    assert 0.1 <= pause_s() <= 0.15
    link.rest()
    assert (link.idle, link.welcomed) == (True, False)
    assert 0.1 <= pause_s() <= 0.15
    assert not link.idle


def test_a_welcome_may_say_the_size_of_messages(link: Link) -> None:
    before = link.max_message_bytes
    link.on_welcome(pb.Welcome())
    assert link.max_message_bytes == before
    link.on_welcome(pb.Welcome(max_message_bytes=100))
    assert link.max_message_bytes == 100


def test_streams_and_drains_are_counted(link: Link) -> None:
    for _ in range(3):
        link.opened()
        link.on_drain(pb.Drain())
        link.on_drain(pb.Drain())
    assert (link.counters.reconnects, link.counters.drains) == (2, 3)


def test_the_first_error_that_closes_it_counts(link: Link) -> None:
    link.check_open()
    link.close(LOST)
    link.close(ConnectionLostError("later"))
    with pytest.raises(ConnectionLostError, match="lost"):
        link.check_open()
