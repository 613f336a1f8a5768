"""Seats, in whatever order things happen: a door is told once, no block is lost, nothing stays bound."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fake_engine import FakeCatalog, FakeEngine

from carousel_server.core.errors import CarouselError
from carousel_server.core.futures import failed
from carousel_server.core.ports import Bind, Close, Command, Place, StepBlock
from carousel_server.core.store import SessionKey
from carousel_server.core.types import OpenSpec, SessionView
from carousel_server.wire.seat import TRANSITIONS, Claim, Event, State, advance
from carousel_server.wire.seats import Seats
from carousel_server.wire.turns import Submissions

BUSY = CarouselError("QUEUE_FULL", "full", retry_after_s=0.1)
GONE = CarouselError("SESSION_EXPIRED", "gone")
LEFT = CarouselError("SESSION_PARKED", "it has just left")


class Loop:
    """Keeps callbacks until they are run."""

    def __init__(self) -> None:
        self.due: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: Any) -> None:
        self.due.append((callback, args))

    def call_soon(self, callback: Callable[..., object], *args: Any) -> None:
        self.due.append((callback, args))

    def run(self) -> None:
        while self.due:
            callback, args = self.due.popleft()
            callback(*args)


class Catalog(FakeCatalog):
    """Fails as often as it is asked to."""

    def __init__(self, engine: FakeEngine) -> None:
        super().__init__(engine)
        self.errors: list[CarouselError] = []
        self.finds = 0

    def resume(self, tenant: str, session_id: str, epoch_floor: int = 0) -> Future[Place]:
        self.finds += 1
        if self.errors:
            return failed(self.errors.pop(0))
        return super().resume(tenant, session_id, epoch_floor)


class Rig:
    """A door with one owner, "o", of session "s"."""

    def __init__(self) -> None:
        self.engine = FakeEngine()
        self.catalog = Catalog(self.engine)
        self.loop = Loop()
        submissions = Submissions(self.loop)  # type: ignore[arg-type]
        self.seats: Seats[str] = Seats(submissions, self.catalog, self)
        self.told: list[str] = []
        self.asked: list[int] = []
        self.answers: Counter[int] = Counter()
        self.failures: Counter[int] = Counter()
        self.error: CarouselError | None = None
        self.view: SessionView = self.catalog.open(self.engine, OpenSpec("t", "s")).result(0)[1]
        self.key = SessionKey("t", "s")
        self.seat = -1

    def hold(self, *, orphan: bool = False) -> None:
        claim = Claim(self.key, lambda: self.catalog.resume(*self.key), orphan=orphan)
        self.seat = self.seats.take("o", claim)
        self.seats.find(self.seat)

    @property
    def state(self) -> State:
        return self.seats.state[self.seat]

    def park(self, applied: int = 0) -> None:
        self.seats.away(self.seats.tag[self.seat], replace(self.view, applied=applied, epoch=3))
        self.engine.session("s").sink = None

    def block(self, seq: int) -> StepBlock:
        return StepBlock(self.seats, [], [], [seq], 1, b"x" * 16)

    def send(self, seq: int) -> None:
        self.asked.append(seq)
        self.seats.send(self.seat, self.block(seq))

    def sent(self, kind: type) -> list[Any]:
        return [command for command in self.engine.seen if isinstance(command, kind)]

    # -- Door

    def outputs(self, owners: list[str], first_seqs: list[int], steps: int, rows: Any) -> None:
        self.answers.update(first_seqs)

    def durable(self, owners: list[str], seqs: list[int]) -> None:
        self.told.append("durable")

    def failed(self, refused: Sequence[tuple[str, int]], error: CarouselError) -> None:
        self.failures.update(seq for _, seq in refused)

    def bound(self, owner: str, session: SessionView) -> None:
        self.told.append("bound")

    def refused(self, owner: str, error: CarouselError) -> None:
        self.told.append("refused")
        self.error = error

    def away(self, owner: str, session: SessionView) -> None:
        self.told.append("away")

    def left(self, owner: str, error: CarouselError | None) -> None:
        self.told.append("left")
        self.error = error

    def moved(self, owner: str, address: str) -> None:
        self.told.append(f"moved to {address}")


@pytest.fixture
def rig() -> Rig:
    """The session is bound."""
    rig = Rig()
    rig.hold()
    rig.loop.run()
    assert (rig.state, rig.told) == (State.BOUND, ["bound"])
    return rig


def test_what_the_table_lacks_cannot_happen() -> None:
    with pytest.raises(AssertionError, match="a seat in state LEFT"):
        advance(State.LEFT, Event.DEPART)
    assert {state for state, _ in TRANSITIONS} == set(State) - {State.LEFT}
    assert {event for _, event in TRANSITIONS} == set(Event)


def test_a_session_that_leaves_before_it_is_bound_is_found_again() -> None:
    rig = Rig()
    rig.engine.refuse_next(Bind, LEFT)
    rig.hold()
    rig.loop.run()
    assert (rig.state, rig.catalog.finds) == (State.BOUND, 2)


@pytest.mark.parametrize("orphan", [False, True])
def test_a_session_that_nobody_can_name_is_closed_if_it_cannot_be_bound(orphan: bool) -> None:
    rig = Rig()
    rig.engine.refuse_next(Bind, BUSY)
    rig.hold(orphan=orphan)
    rig.loop.run()
    assert (rig.state, rig.told, rig.error) == (State.LEFT, ["refused"], BUSY)
    assert len(rig.sent(Close)) == orphan


def test_a_block_wakes_the_session_and_is_sent_with_its_new_tag(rig: Rig) -> None:
    tag = rig.seats.tag[rig.seat]
    rig.park()
    rig.loop.run()
    assert rig.state is State.AWAY
    rig.send(1)
    assert rig.state is State.FETCHED
    rig.loop.run()
    (sent,) = rig.sent(StepBlock)
    assert rig.state is State.BOUND
    assert sent.tags == [rig.seats.tag[rig.seat]] != [tag]


def test_a_block_that_came_too_late_for_a_parked_session_is_sent_again(rig: Rig) -> None:
    tag = rig.seats.tag[rig.seat]
    rig.park()
    rig.seats.returned(tag, rig.block(1))
    rig.loop.run()
    assert len(rig.sent(StepBlock)) == 1


def test_a_session_that_comes_back_in_the_past_is_lost(rig: Rig) -> None:
    rig.park(applied=9)
    rig.loop.run()
    rig.send(10)
    rig.loop.run()
    assert (rig.state, rig.told[-1]) == (State.LEFT, "left")
    assert rig.error is not None
    assert rig.error.reason == "LEASE_LOST"
    assert rig.engine.bound == []


def test_a_store_that_is_busy_refuses_the_steps_and_keeps_the_seat(rig: Rig) -> None:
    rig.park()
    rig.loop.run()
    rig.catalog.errors = [BUSY]
    rig.send(1)
    rig.loop.run()
    assert (rig.state, rig.failures) == (State.AWAY, {1: 1})
    rig.send(1)
    rig.loop.run()
    assert rig.state is State.BOUND


def test_more_steps_than_a_window_do_not_wait(rig: Rig) -> None:
    rig.park()
    rig.loop.run()
    window = rig.engine.model.window_steps
    for seq in range(1, window + 2):
        rig.send(seq)
    assert rig.failures == {window + 1: 1}


def test_a_seat_that_is_given_back_while_it_is_found_leaves_other_doors_alone() -> None:
    rig = Rig()
    found: Future[Place] = Future()
    rig.seat = rig.seats.take("o", Claim(rig.key, lambda: found))
    rig.seats.find(rig.seat)
    rig.seats.shut()
    found.set_result((rig.engine, rig.engine.session("s").ref))
    rig.loop.run()
    assert not rig.sent(Bind)


@pytest.mark.parametrize("close", [False, True])
def test_a_seat_that_is_given_back_before_it_is_bound_is_bound_first(close: bool) -> None:
    rig = Rig()
    rig.hold()
    rig.seats.release(rig.seat, close=close)
    assert rig.state is State.WANTED
    rig.loop.run()
    assert (rig.state, rig.told, rig.error) == (State.LEFT, ["bound", "left"], None)
    assert rig.engine.bound == []
    assert bool(rig.engine.sessions) is not close


def test_results_for_a_former_owner_are_dropped(rig: Rig) -> None:
    tag = rig.seats.tag[rig.seat]
    rig.seats.release(rig.seat, close=False)
    rig.hold()
    rig.loop.run()
    told = list(rig.told)
    rig.seats.unbound(tag, GONE)
    rig.seats.failures([tag], [1], GONE)
    rig.seats.away(tag, rig.view)
    rig.seats.returned(tag, rig.block(1))
    rig.loop.run()
    assert (rig.told, rig.failures, rig.state) == (told, {}, State.BOUND)


@pytest.mark.parametrize(
    ("what", "told", "state"),
    [
        ("moved", ["bound", "moved to b:1"], State.LEFT),
        ("unbound", ["bound", "left"], State.LEFT),
        ("away", ["bound", "away"], State.AWAY),
    ],
)
def test_what_an_engine_tells_before_its_answer_is_known_comes_after_it(
    what: str, told: list[str], state: State
) -> None:
    """An engine is quick: it may answer a Bind, and give the session up, before `ask` has returned."""
    rig = Rig()
    run = rig.engine._run

    def quick(command: Command) -> None:
        run(command)
        if isinstance(command, Bind):
            said = {"moved": "b:1", "unbound": GONE, "away": rig.view}
            getattr(rig.seats, what)(command.tag, said[what])

    rig.engine._run = quick  # type: ignore[method-assign]
    rig.hold()
    rig.loop.run()
    assert (rig.told, rig.state) == (told, state)


ACTS = st.sampled_from([
    "send", "replay", "park", "lose", "release", "close", "busy", "gone", "left", "hold", "answer", "turn",
])  # fmt: skip


def act(rig: Rig, name: str, seq: int) -> None:
    """One thing happens."""
    taking = rig.seats.takes_steps(rig.seat)
    bound = rig.seats.engine[rig.seat] is not None
    if name == "send" and taking:
        rig.send(seq)
    elif name == "replay" and taking:
        rig.seats.replay(rig.seat)
    elif name == "park" and bound and rig.engine._held is None:
        rig.park()
    elif name == "lose" and bound and rig.engine._held is None:
        rig.engine.session("s").sink = None
        rig.seats.unbound(rig.seats.tag[rig.seat], GONE)
    elif name in ("release", "close") and rig.state not in (State.CLOSING, State.LEFT):
        rig.seats.release(rig.seat, close=name == "close")
    elif name in ("busy", "gone", "left"):
        rig.catalog.errors.append({"busy": BUSY, "gone": GONE, "left": LEFT}[name])
    elif name == "hold" and rig.engine._held is None:
        rig.engine.hold()
    elif name == "answer" and rig.engine._held is not None:
        rig.engine.release()
    elif name == "turn":
        rig.loop.run()


@given(st.lists(ACTS, max_size=40))
@settings(max_examples=400, deadline=None)
def test_whatever_happens_a_door_is_told_once_and_no_block_is_lost(acts: list[str]) -> None:
    rig = Rig()
    rig.hold()
    for seq, name in enumerate(acts, 1):
        act(rig, name, seq)
    for _ in range(3):
        rig.engine.release()
        rig.loop.run()
    told = Counter(rig.told)
    ended = rig.state is State.LEFT
    assert told["bound"] + told["refused"] == 1
    assert told["left"] == (ended and not told["refused"])
    assert ended or rig.state in (State.BOUND, State.AWAY)
    assert ended == (rig.seats.tag[rig.seat] == 0 and rig.seats.engine[rig.seat] is None)
    if ended:
        assert rig.engine.bound == [], "a seat that was given back unbinds its session"
    else:
        unanswered = set(rig.asked) - set(rig.answers) - set(rig.failures)
        assert not unanswered, "each block is sent or refused"
