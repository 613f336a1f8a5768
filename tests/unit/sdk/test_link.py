"""The stream of a client: what may be sent, what is to be done, and when the next one is opened."""

from __future__ import annotations

import random

import pytest

import carousel
from carousel._core.lane import Lane
from carousel._core.link import Link, Links
from carousel._core.tickets import Ticket
from carousel._error_bases import ConnectionLostError
from carousel_protos.v1 import carousel_pb2 as pb

LOST = ConnectionLostError("lost")


HOST = "host:1"


@pytest.fixture
def links() -> Links:
    return Links(carousel.RetryPolicy(first_delay_s=0.1), random.Random(1))


@pytest.fixture
def link(links: Links) -> Link:
    return links.of(HOST)


def test_it_takes_binds_while_there_is_a_stream_that_does_not_drain(
    links: Links, link: Link
) -> None:
    assert not link.may_bind
    link.opened()
    assert link.may_bind
    link.on_drain(pb.Drain())
    assert not link.may_bind
    link.lost(1.0)
    link.opened()
    assert link.may_bind
    links.close(LOST)
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
    assert Links(policy, random.Random(1)).mends is mends


def test_effects_are_handed_out_once_in_their_order(links: Links, link: Link) -> None:
    link.opened()
    links.of("other:1").opened()
    ticket = Ticket()
    link.send(hello=pb.Hello(client="a"))
    link.send(replay=pb.Replay(handle=3))
    links.of("other:1").send(hello=pb.Hello(client="b"))
    links.end(ticket)
    effects = links.take_effects(7.0)
    kinds = [request.WhichOneof("event") for request in effects.send[HOST]]
    assert kinds == ["hello", "replay"]
    assert [request.hello.client for request in effects.send["other:1"]] == ["b"]
    assert effects.ended == [ticket]
    assert (effects.wake_at_s, effects.connect) == (7.0, {})
    assert links.take_effects() == type(effects)()


def test_a_stream_is_asked_for_once(links: Links, link: Link) -> None:
    link.want()
    assert links.take_effects().connect == {HOST: 0.0}
    link.want()
    link.opened()
    link.want()
    assert links.take_effects().connect == {}


def test_what_a_lost_stream_was_to_send_is_dropped_but_callers_are_woken(
    links: Links, link: Link
) -> None:
    link.opened()
    links.of("other:1").opened()
    ticket = Ticket()
    link.send(hello=pb.Hello())
    links.of("other:1").send(hello=pb.Hello())
    links.end(ticket)
    link.lost(2.0)
    effects = links.take_effects()
    assert (list(effects.send), effects.ended, links.now_s) == (["other:1"], [ticket], 2.0)


def test_pauses_grow_until_a_server_answers(links: Links, link: Link) -> None:
    def pause_s() -> float:
        link.reopen(LOST)
        return links.take_effects().connect[HOST]

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


def test_streams_and_drains_are_counted(links: Links, link: Link) -> None:
    links.of("other:1").opened()  # the first one there
    for _ in range(3):
        link.opened()
        link.on_drain(pb.Drain())
        link.on_drain(pb.Drain())
    assert (links.counters.reconnects, links.counters.drains) == (2, 3)


def test_the_first_error_that_closes_it_counts(links: Links) -> None:
    links.check_open()
    links.close(LOST)
    links.close(ConnectionLostError("later"))
    with pytest.raises(ConnectionLostError, match="lost"):
        links.check_open()


def test_a_stream_ends_once_its_server_is_unknown_and_no_lane_has_it(links: Links) -> None:
    gone, used, opening, known, idle = (links.of(f"{name}:1") for name in "abcde")
    for link in (gone, used, known):
        link.opened()
    opening.want()
    used.lanes[1] = Lane(1, 1, used)
    links.take_effects()
    links.leave(("d:1",))
    assert links.take_effects().leave == ["a:1", "e:1"]
    assert links.of("a:1") is not gone
    assert links.of("e:1") is not idle
    assert links.of("c:1") is opening, "it is left when the try has ended"
    del used.lanes[1]
    links.leave(("a:1", "d:1", "e:1"))
    assert links.take_effects().leave == ["b:1"]


def test_nothing_is_sent_without_a_stream(links: Links, link: Link) -> None:
    link.send(hello=pb.Hello())
    link.opened()
    link.lost(1.0)
    link.send(hello=pb.Hello())
    assert links.take_effects().send == {}
