"""A stream whose sessions are handed over: what its client is told, and when the stream ends."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.fake_engine import CountingMetrics, FakeCatalog, FakeEngine
from support.unread import unread

from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.core.errors import CarouselError
from carousel_server.core.futures import failed
from carousel_server.core.moves import Hold
from carousel_server.core.ports import Bind, Close, StepBlock
from carousel_server.core.quotas import Quotas
from carousel_server.core.types import OpenSpec, SessionRef
from carousel_server.wire.attach import Conversation
from carousel_server.wire.gate import Gate
from carousel_server.wire.options import WireOptions
from carousel_server.wire.outbox import Outbox
from carousel_server.wire.seat import State
from carousel_server.wire.stream import Stream
from carousel_server.wire.turns import Submissions

from .test_waking import Loop

THERE = "there:1"


class Rig:
    """A stream with sessions "s1" and "s2" bound to handles 1 and 2."""

    def __init__(self, *, follows: bool) -> None:
        self.engine = FakeEngine()
        catalog = self.catalog = FakeCatalog(self.engine)
        self.outbox = Outbox(1 << 20, 1 << 20)
        self.metrics = CountingMetrics()
        options = WireOptions()
        self.gate = Gate(options, self.metrics, Quotas())
        submissions = Submissions(Loop())  # type: ignore[arg-type]
        self.stream = Stream(submissions, self.outbox, self.metrics, catalog, "t")
        self._admission = self.gate.admit(self.stream, "t")
        self._admission.__enter__()
        self.talk = Conversation(self.stream, catalog, options, self.gate)
        self.say(hello=pb.Hello(follows_moves=follows))
        self.views = {}
        for handle in (1, 2):
            opened = catalog.open(self.engine, OpenSpec("t", f"s{handle}")).result(timeout=1)
            self.views[handle] = opened[1]
            self.say(bind=pb.Bind(handle=handle, session_id=f"s{handle}"))
        self.outbox._waiting.clear()

    def say(self, **event: object) -> None:
        self.talk.take(pb.AttachRequest(**event))  # type: ignore[arg-type]

    def step(self, handle: int, seq: int) -> None:
        self.say(block=pb.Block(handles=[handle], first_seqs=[seq], steps=1, inputs=bytes(16)))

    def tag(self, handle: int) -> int:
        return self.stream.seats.tag[self.stream.seat_of[handle]]

    def news(self) -> list[pb.AttachResponse]:
        """All that the client was told since the last time."""
        told = unread(self.outbox)
        self.outbox._waiting.clear()
        return told


@pytest.fixture
def rig() -> Rig:
    return Rig(follows=True)


@pytest.mark.parametrize(("follows", "hold"), [(False, Hold.STREAM), (True, Hold.FOLLOWER)])
def test_an_engine_knows_whether_the_client_follows(follows: bool, hold: Hold) -> None:
    rig = Rig(follows=follows)
    binds = [command for command in rig.engine.seen if isinstance(command, Bind)]
    assert [bind.hold for bind in binds] == [hold, hold]


def test_the_client_is_told_where_its_session_is_and_the_handle_is_free(rig: Rig) -> None:
    seat, tag = rig.stream.seat_of[1], rig.tag(1)
    rig.stream.seats.moved(tag, THERE)
    assert rig.news() == [pb.AttachResponse(moved=pb.Moved(handle=1, address=THERE))]
    assert rig.stream.seats.state[seat] is State.LEFT
    assert set(rig.stream.seat_of) == {2}
    assert rig.metrics.redirects == 1
    rig.stream.seats.moved(tag, THERE)
    assert rig.news() == [], "of a former owner of the seat"
    rig.say(bind=pb.Bind(handle=1, session_id="s1"))
    assert [one.WhichOneof("event") for one in rig.news()] == ["bound"]


def test_a_block_that_was_in_flight_needs_no_answer(rig: Rig) -> None:
    """The Moved that follows tells the client to send it elsewhere."""
    sent, ref = len(rig.engine.seen), rig.stream.seats.ref[rig.stream.seat_of[1]]
    block = StepBlock(rig.stream.seats, [rig.tag(1)], [ref], [1], 1, bytes(16))
    rig.stream.seats.returned(rig.tag(1), block)
    assert (rig.news(), rig.engine.seen[sent:]) == ([], [])


def test_a_session_that_is_fetched_or_closed_meanwhile_does_not_move(rig: Rig) -> None:
    first, second = rig.tag(1), rig.tag(2)
    rig.stream.seats.away(first, replace(rig.views[1], epoch=2))
    rig.engine.hold()
    rig.say(unbind=pb.Unbind(handle=2, close=True))
    for tag in (first, second):
        rig.stream.seats.moved(tag, THERE)
    assert rig.news() == []
    assert set(rig.stream.seat_of) == {1, 2}


def test_a_session_that_another_replica_has_is_not_said_to_be_closed(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was handed over while the client closed it. The client has to close it there."""
    held = CarouselError("SESSION_HELD", "held", metadata={"owner": THERE}, retry_after_s=1.0)
    monkeypatch.setattr(rig.catalog, "resume", lambda *_args, **_kwargs: failed(held))
    rig.engine.refuse_next(Close, CarouselError("SESSION_PARKED", "it has left"))
    rig.say(unbind=pb.Unbind(handle=1, close=True))
    (told,) = rig.news()
    assert b"SESSION_HELD" in told.unbound.status.SerializeToString()
    assert THERE.encode() in told.unbound.status.SerializeToString()


# -- a drain


def test_a_follower_steps_until_its_session_has_moved(rig: Rig) -> None:
    rig.gate.drain(9.0, hands_over=True)
    assert rig.news()[0].drain.grace.seconds == 9
    rig.step(1, 1)
    rig.stream.seats.submissions.flush()
    assert [one.WhichOneof("event") for one in rig.news()] == ["outputs"]
    rig.say(bind=pb.Bind(handle=3, session_id="s1"))
    assert "shutting down" in rig.news()[0].failure.status.message
    rig.gate.drain(9.0)
    rig.step(1, 2)
    assert [one.WhichOneof("event") for one in rig.news()] == ["failure"], "and no second Drain"


def test_its_stream_ends_well_with_the_last_of_its_sessions(rig: Rig) -> None:
    rig.gate.drain(9.0, hands_over=True)
    rig.stream.seats.moved(rig.tag(1), THERE)
    assert not rig.outbox.ended.is_set()
    rig.stream.seats.unbound(rig.tag(2), CarouselError("SESSION_EXPIRED", "it was idle"))
    assert rig.outbox.ended.is_set()
    assert rig.outbox._end is None
    assert [one.WhichOneof("event") for one in rig.news()] == ["drain", "moved", "unbound"]


def test_one_without_sessions_ends_at_once(rig: Rig) -> None:
    for handle in (1, 2):
        rig.say(unbind=pb.Unbind(handle=handle))
    assert not rig.outbox.ended.is_set()
    rig.gate.drain(9.0, hands_over=True)
    assert rig.outbox.ended.is_set()


@pytest.mark.parametrize("hands_over", [False, True])
def test_a_client_that_does_not_follow_meets_a_drain_as_ever(hands_over: bool) -> None:
    rig = Rig(follows=False)
    rig.gate.drain(9.0, hands_over=hands_over)
    rig.step(1, 1)
    assert [one.WhichOneof("event") for one in rig.news()] == ["drain", "failure"]
    assert not rig.outbox.ended.is_set()


def test_a_redirect_is_counted_where_an_error_names_the_holder(rig: Rig) -> None:
    held = CarouselError("SESSION_HELD", "held", metadata={"owner": THERE})
    rig.stream.refuse(1, held)
    rig.stream.refuse(1, CarouselError("SESSION_HELD", "held by one without an address"))
    assert rig.metrics.redirects == 1


def test_a_block_of_a_parked_session_fetches_it_whatever_its_row(rig: Rig) -> None:
    """A seat that is not bound stands on row 0, where a session can be too."""
    rig.stream.seats.away(rig.tag(1), rig.views[1])
    sent = len(rig.engine.seen)
    block = StepBlock(rig.stream.seats, [rig.tag(1)], [SessionRef(0, 0)], [1], 1, bytes(16))
    rig.stream.seats.returned(rig.tag(1), block)
    assert any(isinstance(command, Bind) for command in rig.engine.seen[sent:])
