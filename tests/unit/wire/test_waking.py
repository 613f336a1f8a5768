"""Handles whose session is in the store: what the client hears when it comes back otherwise."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import pytest
from support.fake_engine import CountingMetrics, FakeCatalog, FakeEngine
from support.unread import unread

from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.core.errors import CarouselError
from carousel_server.core.ports import Ack, Close, Place, Replay, StepBlock
from carousel_server.core.store import SessionKey
from carousel_server.core.types import OpenSpec, SessionView
from carousel_server.wire.outbox import Outbox
from carousel_server.wire.places import close_session
from carousel_server.wire.seat import Claim
from carousel_server.wire.stream import Stream
from carousel_server.wire.turns import Submissions


class Loop:
    """Runs at once what an event loop would run soon."""

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: Any) -> None:
        callback(*args)

    call_soon = call_soon_threadsafe


class Catalog(FakeCatalog):
    """Remembers which epoch was asked for; fails on wish."""

    def __init__(self, engine: FakeEngine) -> None:
        super().__init__(engine)
        self.floors: list[int] = []
        self.error: CarouselError | None = None

    def resume(
        self, tenant: str, session_id: str, epoch_floor: int = 0, take_over: bool = False
    ) -> Future[Place]:
        self.floors.append(epoch_floor)
        if self.error is None:
            return super().resume(tenant, session_id, epoch_floor)
        refused: Future[Place] = Future()
        refused.set_exception(self.error)
        return refused


class Rig:
    """A stream with session "s" bound to handle 1, and parked as of step `applied` in epoch 3."""

    def __init__(self, applied: int = 5) -> None:
        self.engine = FakeEngine()
        self.catalog = Catalog(self.engine)
        self.outbox = Outbox(1 << 20, 1 << 20)
        submissions = Submissions(Loop())  # type: ignore[arg-type]
        self.stream = Stream(submissions, self.outbox, CountingMetrics(), self.catalog, "t")
        opened = self.catalog.open(self.engine, OpenSpec("t", "s")).result(timeout=1)
        key = SessionKey("t", "s")
        self.stream.bind(1, Claim(key, lambda: self.catalog.resume(*key)))
        self.view: SessionView = opened[1]
        self.seats, self.seat = self.stream.seats, self.stream.seat_of[1]
        parked = replace(self.view, applied=applied, durable=applied, ack=applied, epoch=3)
        self.seats.away(self.tag, parked)

    @property
    def tag(self) -> int:
        """Under which the engine knows the session."""
        return self.seats.tag[self.seat]

    @property
    def claim(self) -> Claim:
        """What the seat knows of its session."""
        return self.seats._claim(self.seat)

    def wake(self, block: StepBlock | None = None) -> None:
        """The client sends a step or, without one, asks for the kept outputs."""
        if block is None:
            self.seats.replay(self.seat)
        else:
            self.seats.send(self.seat, block)

    def news(self) -> pb.AttachResponse:
        """The last that the client was told."""
        return unread(self.outbox)[-1]


def step(seq: int) -> StepBlock:
    """One step, for the handle of the rig."""
    return StepBlock(None, [0], [], [seq], 1, b"x")  # type: ignore[arg-type]


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_a_session_that_comes_back_in_the_past_is_taken_away(rig: Rig) -> None:
    rig.wake()
    assert rig.catalog.floors[-1] == 3, "an epoch that the client has seen may be given again"
    assert rig.news().unbound.handle == 1
    assert "the store went back" in rig.news().unbound.status.message
    assert not rig.stream.seat_of


def test_whoever_waits_for_a_replay_hears_that_the_store_is_away(rig: Rig) -> None:
    rig.catalog.error = CarouselError("STORE_UNAVAILABLE", "nobody is there", retry_after_s=0.1)
    rig.wake()
    assert "could not be fetched" in rig.news().unbound.status.message
    assert not rig.stream.seat_of


def test_what_was_acknowledged_while_it_was_being_fetched_counts() -> None:
    rig = Rig(applied=0)
    rig.engine.hold()
    rig.wake()
    rig.claim.ack = 7
    rig.engine.release()
    acks = [command for command in rig.engine.seen if isinstance(command, Ack)]
    assert [(ack.refs, ack.acks) for ack in acks] == [([rig.seats.ref[rig.seat]], [7])]


def test_what_was_acknowledged_counts_also_if_it_is_parked_again_at_once() -> None:
    rig = Rig(applied=0)
    rig.engine.hold()
    rig.wake()
    rig.claim.ack = 7
    rig.engine.release()
    # The engine had parked it before it saw the Ack.
    rig.seats.away(rig.tag, replace(rig.view, ack=3))
    assert rig.claim.ack == 7


def test_a_replay_that_came_just_as_the_session_was_parked_fetches_it() -> None:
    rig = Rig(applied=0)
    tag = rig.tag
    rig.seats.failures([tag], [0], CarouselError("SESSION_PARKED", "it has just left"))
    assert any(isinstance(command, Replay) for command in rig.engine.seen)
    assert rig.tag != tag


def test_a_refusal_that_comes_just_after_the_session_was_parked_is_told() -> None:
    rig = Rig(applied=0)
    tag = rig.tag
    rig.seats.failures([tag], [4], CarouselError("QUEUE_FULL", "full", retry_after_s=0.1))
    assert (rig.news().failure.handle, rig.news().failure.seq) == (1, 4)


@pytest.mark.parametrize("reason", ["SESSION_PARKED", "SESSION_CLOSED"])
def test_a_close_that_came_just_as_the_session_had_left_its_row_asks_the_store(reason: str) -> None:
    rig = Rig(applied=0)
    rig.wake()
    gone = CarouselError(reason, "it has just left")
    rig.engine.hold()
    close_session(rig.catalog, SessionKey("t", "s"), (rig.engine, rig.seats.ref[rig.seat]))
    (first,) = (command for command in rig.engine.seen if isinstance(command, Close))
    first.reply.set_exception(gone)
    (second,) = (command for command in rig.engine.seen[-1:] if isinstance(command, Close))
    assert second is not first
    assert second.ref == rig.seats.ref[rig.seat]


@pytest.mark.parametrize("at", ["door", "answer"])
def test_a_close_that_a_server_refuses_as_it_stops_is_left_to_the_next(at: str) -> None:
    rig = Rig(applied=0)
    rig.wake()
    stops = CarouselError("DRAINING", "it stops", retry_after_s=1.0)
    if at == "door":
        rig.engine.refuse_next(Close, stops)
    else:
        rig.engine.hold()
    rig.seats.release(rig.seat, close=True)
    if at == "answer":
        (close,) = (command for command in rig.engine.seen if isinstance(command, Close))
        close.reply.set_exception(stops)
    assert rig.news().unbound.handle == 1
    assert "it stops" in rig.news().unbound.status.message
    assert not rig.stream.seat_of


def test_a_close_that_fails_otherwise_is_up_to_the_ttl() -> None:
    rig = Rig(applied=0)
    rig.wake()
    rig.engine.refuse_next(Close, CarouselError("MODEL_UNHEALTHY", "the device is lost"))
    rig.seats.release(rig.seat, close=True)
    assert not rig.news().unbound.HasField("status")


def test_an_ack_that_finds_no_room_refuses_no_steps() -> None:
    rig = Rig(applied=0)
    rig.engine.hold()
    rig.wake(step(1))
    rig.engine.refuse_next(Ack, CarouselError("QUEUE_FULL", "full"))
    rig.engine.release()
    assert [block.first_seqs for block in rig.engine.seen if isinstance(block, StepBlock)] == [[1]]
    assert not any(news.HasField("failure") for news in unread(rig.outbox))


def test_what_follows_a_refused_block_is_refused_too() -> None:
    rig = Rig(applied=0)
    rig.engine.hold()
    rig.wake(step(1))
    rig.wake(step(2))
    rig.engine.refuse_next(StepBlock, CarouselError("QUEUE_FULL", "full"))
    rig.engine.release()
    failures = [news.failure for news in unread(rig.outbox) if news.HasField("failure")]
    assert [(failure.handle, failure.seq) for failure in failures] == [(1, 1), (1, 2)]
    assert not any(isinstance(command, StepBlock) for command in rig.engine.seen)


def test_a_replay_that_finds_no_room_gives_the_handle_back() -> None:
    rig = Rig(applied=0)
    rig.engine.hold()
    rig.wake()
    rig.engine.refuse_next(Replay, CarouselError("QUEUE_FULL", "full"))
    rig.engine.release()
    assert rig.news().unbound.handle == 1
    assert "could not be fetched" in rig.news().unbound.status.message
    assert not rig.stream.seat_of
