"""Two replicas of one store: a session that no one uses goes to the one that is asked for it."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import pytest

from carousel_server.core.errors import CarouselError
from carousel_server.core.moves import Hold
from carousel_server.core.ports import Place, Unbind
from carousel_server.core.store import Announcement, AskFor, Holding, Keep, SessionKey
from carousel_server.core.types import Durability, OpenSpec, SessionRef
from carousel_server.store.memory import MemoryMedium
from tests.unit.engine.durable_rig import DurableRig
from tests.unit.engine.fakes import RecordingSink

KEY = SessionKey("t", "s")


class Replicas:
    """Two replicas, turned together. Each turn takes 10 ms."""

    def __init__(self) -> None:
        medium = MemoryMedium()
        self.here, self.there = (
            DurableRig(medium=medium, replica=name) for name in ("here", "there")
        )
        for rig, address in ((self.here, "here:1"), (self.there, "there:1")):
            rig.store.address = address
            rig.store.store.renew(Announcement(address))
        # Set if the holder does not look into its mailbox.
        self.deaf = False

    def turn(self) -> None:
        for rig in (self.here, self.there):
            rig.turn()
            rig.now += 0.01
            rig.store.wait(0.01)
            rig.store.run()
        if not self.deaf:
            self.here.answering.take(self.here.store.store.asked(256))
            self.there.answering.take(self.there.store.store.asked(256))

    def until(self, future: Future[Any]) -> Any:
        for _ in range(300):
            if future.done():
                return future.result(timeout=0)
            self.turn()
        raise AssertionError("nobody answers")

    def refusal(self, future: Future[Any]) -> CarouselError:
        with pytest.raises(CarouselError) as caught:
            self.until(future)
        return caught.value

    def bound_here(self, hold: Hold, sink: RecordingSink) -> SessionRef:
        """A session that has stepped three times here."""
        ref = self.here.open_durable()
        self.here.attach(ref, sink, hold=hold)
        self.here.send(sink, ref, 1, 1, 2, 3)
        self.here.tick()
        return ref

    def wanted_there(self, *, take_over: bool = False) -> Future[Place]:
        return self.there.catalog.resume("t", "s", take_over=take_over)


@pytest.fixture
def pair() -> Replicas:
    return Replicas()


@pytest.fixture
def sink() -> RecordingSink:
    return RecordingSink()


@pytest.mark.parametrize("hold", [Hold.NONE, Hold.CALLS])
def test_a_session_without_a_stream_comes_at_once(
    pair: Replicas, sink: RecordingSink, hold: Hold
) -> None:
    ref = pair.bound_here(Hold.CALLS, sink)
    if hold is Hold.NONE:
        pair.here.engine.submit(Unbind(ref, sink))
    began_s = pair.there.now
    _, found = pair.until(pair.wanted_there())
    assert pair.there.now - began_s < 0.2, "long before it would be parked"
    assert pair.there.attach(found, RecordingSink()).applied == 3
    assert "received" in pair.there.metrics.moves
    assert pair.here.directory.find(*KEY) is None


@pytest.mark.parametrize("hold", [Hold.STREAM, Hold.FOLLOWER])
def test_a_session_of_a_stream_is_refused_at_once_with_its_owner(
    pair: Replicas, sink: RecordingSink, hold: Hold
) -> None:
    ref = pair.bound_here(hold, sink)
    began_s = pair.there.now
    error = pair.refusal(pair.wanted_there())
    assert (error.reason, error.metadata["owner"]) == ("SESSION_HELD", "here:1")
    assert pair.there.now - began_s < 0.2
    pair.here.send(sink, ref, 4, 4)
    pair.here.rest()
    assert [seq for seq, _ in sink.of(1)] == [1, 2, 3, 4]


def test_a_session_that_is_taken_over_comes_from_a_stream(
    pair: Replicas, sink: RecordingSink
) -> None:
    pair.bound_here(Hold.FOLLOWER, sink)
    assert pair.refusal(pair.wanted_there()).reason == "SESSION_HELD"
    _, found = pair.until(pair.wanted_there(take_over=True))
    assert pair.there.attach(found, RecordingSink()).applied == 3
    assert sink.moves == [(1, "there:1")]


def test_an_opening_takes_over_what_an_earlier_try_opened(
    pair: Replicas, sink: RecordingSink
) -> None:
    """The earlier try's answer was lost with the path to its server."""
    pair.here.attach(pair.here.open_durable(), sink, hold=Hold.FOLLOWER)
    there, mild = pair.there, OpenSpec("t", "s", Durability.ASYNC)
    insisting = replace(mild, take_over=True)
    assert pair.refusal(there.catalog.open(there.engine, mild)).reason == "SESSION_HELD"
    pair.until(there.catalog.open(there.engine, insisting))
    assert sink.moves == [(1, "there:1")]
    assert pair.here.directory.find(*KEY) is None


def test_one_who_insists_is_not_bound_by_another_who_does_not(
    pair: Replicas, sink: RecordingSink
) -> None:
    pair.bound_here(Hold.FOLLOWER, sink)
    mild, insisting = pair.wanted_there(), pair.wanted_there(take_over=True)
    assert pair.refusal(mild).reason == "SESSION_HELD"
    assert pair.until(insisting)[0] is pair.there.engine


def test_a_question_that_is_lost_is_asked_again(pair: Replicas, sink: RecordingSink) -> None:
    """As where the session was only on its way to a row of the holder."""
    pair.bound_here(Hold.CALLS, sink)
    pair.here.rest()
    pair.deaf = True
    wanted = pair.wanted_there()
    for _ in range(3):
        pair.turn()
    assert [one.key for one in pair.here.store.store.asked(256)] == [KEY]
    pair.deaf = False
    assert pair.until(wanted)[0] is pair.there.engine


def test_few_questions_for_all_tries(pair: Replicas, sink: RecordingSink) -> None:
    pair.bound_here(Hold.FOLLOWER, sink)
    pair.deaf, began_s = True, pair.there.now
    assert pair.refusal(pair.wanted_there()).metadata["owner"] == "here:1"
    assert pair.there.now - began_s >= 1.0, "the holder never answered"
    assert 1 <= len(pair.here.store.store.asked(256)) <= 4


def test_pauses_grow(pair: Replicas, sink: RecordingSink) -> None:
    pair.bound_here(Hold.FOLLOWER, sink)
    pair.deaf = True
    pair.wanted_there()
    pauses = []
    for _ in range(6):
        pair.there.store.run()
        pauses += [delay_s for delay_s, _ in pair.there.store.pauses]
        pair.there.store.wait(1.0)
        pair.there.now += 0.001
    assert pauses == pytest.approx([0.02, 0.04, 0.08, 0.16, 0.32, 0.64])


def test_a_holder_that_dies_is_waited_for_no_longer_than_a_live_one(pair: Replicas) -> None:
    pair.here.open_durable()
    pair.deaf = True
    assert pair.refusal(pair.wanted_there()).reason == "SESSION_HELD"
    pair.here.store.store.close()
    assert pair.until(pair.wanted_there())[0] is pair.there.engine


def test_a_session_that_moved_on_is_asked_for_at_its_next_holder(
    pair: Replicas, sink: RecordingSink
) -> None:
    """The first holder gives it to a third replica, which then is asked."""
    pair.bound_here(Hold.CALLS, sink)
    pair.here.rest()
    third = DurableRig(medium=pair.here.medium, replica="third")
    third.store.store.renew(Announcement("third:1"))
    pair.deaf = True
    wanted = pair.wanted_there()
    pair.turn()
    record = pair.here.store.store.read(KEY)
    pair.here.store.store.release([Holding(KEY, record.epoch, record.last_used_unix_s)])
    third.until(third.catalog.resume("t", "s"))
    for _ in range(3):
        pair.turn()
    third.now += 1.0  # it is no newcomer any more
    third.answering.take(third.store.store.asked(256))
    for _ in range(5):
        third.turn()
    assert pair.until(wanted)[0] is pair.there.engine


def test_a_store_that_fails_is_no_reason_to_wait(pair: Replicas, sink: RecordingSink) -> None:
    pair.bound_here(Hold.FOLLOWER, sink)
    wanted = pair.wanted_there()
    pair.there.store.run_one()
    assert [type(request) for request in pair.there.store.waiting] == [AskFor]
    pair.there.store.refuse()
    assert pair.refusal(wanted).metadata["owner"] == "here:1"


def test_a_request_for_what_is_not_here_needs_no_answer(pair: Replicas) -> None:
    pair.there.store.store.ask_for(KEY, "here", take_over=True, by="there:1")
    pair.here.answering.take(pair.here.store.store.asked(256))
    assert not pair.here.store.waiting


def test_an_engine_that_has_ended_keeps_its_sessions(pair: Replicas, sink: RecordingSink) -> None:
    pair.bound_here(Hold.CALLS, sink)
    pair.here.engine.stop()
    pair.here.store.waiting.clear()
    pair.there.store.store.ask_for(KEY, "here", take_over=True, by="there:1")
    pair.here.answering.take(pair.here.store.store.asked(256))
    assert [request.keys for request in pair.here.store.waiting if isinstance(request, Keep)] == [
        [KEY]
    ]
