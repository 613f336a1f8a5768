"""One seat: the states of its session, what is known of it beside the columns of `Seats`, and its door."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, TypeVar

from carousel_server.core.errors import CarouselError
from carousel_server.core.ports import Place, StepBlock
from carousel_server.core.store import SessionKey
from carousel_server.core.types import Bytes2D, SessionView

NO_TAG = 0
"""The tag of a seat whose session sends nothing."""

NO_SEAT = 0
"""Never taken. It stands for a session that a door does not hold."""

Tick = tuple[float, float]
"""When a tick began, and when it sent its outputs; monotonic seconds."""

_RETRY_AFTER_S = 0.05
"""The hint that goes with what passes soon."""


class State(StrEnum):
    """Where a seat's session is, as its door sees it."""

    WANTED = "WANTED"
    """It is found and bound for the first time. The door's client waits for that."""
    BOUND = "BOUND"
    """It is on a row. Steps go to its engine."""
    AWAY = "AWAY"
    """It is in the store, and nothing needs it."""
    FETCHED = "FETCHED"
    """It is found and bound again. Steps wait; the door's client notices nothing."""
    CLOSING = "CLOSING"
    """It is being closed, on its row or in the store."""
    LEFT = "LEFT"
    """The seat is free."""


class Event(StrEnum):
    """What can happen to a seat."""

    BIND = "bound by its engine"
    REFUSE = "refused"
    POSTPONE = "not to be had now"
    DEPART = "gone to the store"
    WANT = "a step or Replay comes"
    LOSE = "lost for good"
    MOVE = "handed over"
    RELEASE = "given back"
    CLOSE = "to be closed"
    END = "closed"


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.WANTED, Event.BIND): State.BOUND,
    (State.WANTED, Event.REFUSE): State.LEFT,
    (State.BOUND, Event.DEPART): State.AWAY,
    (State.BOUND, Event.LOSE): State.LEFT,
    (State.BOUND, Event.MOVE): State.LEFT,
    (State.BOUND, Event.RELEASE): State.LEFT,
    (State.BOUND, Event.CLOSE): State.CLOSING,
    (State.AWAY, Event.WANT): State.FETCHED,
    (State.AWAY, Event.RELEASE): State.LEFT,
    (State.AWAY, Event.CLOSE): State.CLOSING,
    (State.FETCHED, Event.BIND): State.BOUND,
    (State.FETCHED, Event.POSTPONE): State.AWAY,
    (State.FETCHED, Event.LOSE): State.LEFT,
    (State.FETCHED, Event.RELEASE): State.LEFT,
    (State.FETCHED, Event.CLOSE): State.CLOSING,
    (State.CLOSING, Event.END): State.LEFT,
}
"""(state, event) → state. What is not here cannot happen."""


def advance(state: State, event: Event) -> State:
    """The state after `event`. An event that the table lacks is a defect of the server."""
    after = TRANSITIONS.get((state, event))
    assert after is not None, f"a seat in state {state} was {event}"
    return after


def diagram() -> str:
    """The table as a Mermaid state diagram, for ARCHITECTURE.md."""
    lines = ["stateDiagram-v2", "    [*] --> WANTED"]
    lines += [f"    {s} --> {after}: {e}" for (s, e), after in TRANSITIONS.items()]
    return "\n".join([*lines, "    LEFT --> [*]"])


@dataclass(slots=True)
class Claim:
    """What a seat knows of its session beside the columns.

    Attributes:
        key: whose session it is; its id is "" until it is opened.
        find: brings the session onto a row; called again if it has left before it was bound.
        attach_id, epoch_floor, ack: as in `core.ports.Bind`.
        orphan: no one else can ever name the session, so it is closed if the binding fails.
        place: where it was found last.
        tag: of the binding that is in flight, or the last one.
        closing: the client has given the seat back before it was bound, and wants it closed or not.
        applied: how many steps the session had when it went to the store.
        replay: the client waits for the kept outputs.
        blocks: of one row each, sent once the session is back.
        early: what the engine has told of the binding in flight, to be taken after its answer.
    """

    key: SessionKey
    find: Callable[[], Future[Place]]
    attach_id: int = 0
    epoch_floor: int = 0
    ack: int = 0
    orphan: bool = False
    place: Place | None = None
    tag: int = NO_TAG
    closing: bool | None = None
    applied: int = 0
    replay: bool = False
    blocks: list[StepBlock] = field(default_factory=list)
    early: list[Callable[[], None]] = field(default_factory=list)

    def add(self, block: StepBlock) -> None:
        """Keeps a block until the session is back.

        Raises:
            CarouselError: WINDOW_EXCEEDED: more wait than the session's window could take.
        """
        assert self.place is not None, "it was bound before"
        limit = self.place[0].model.window_steps
        if sum(waiting.steps for waiting in self.blocks) + block.steps > limit:
            raise CarouselError(
                "WINDOW_EXCEEDED",
                f"more than {limit} steps wait for a session that comes back from the store",
                metadata={"limit": limit},
                retry_after_s=_RETRY_AFTER_S,
                seq=block.first_seqs[0],
            )
        self.blocks.append(block)

    def take_blocks(self) -> list[StepBlock]:
        """What waits, in the order of the steps."""
        blocks, self.blocks = self.blocks, []
        return sorted(blocks, key=lambda block: block.first_seqs[0])


O = TypeVar("O")  # noqa: E741 - the owner of a seat, in the door's own terms


class Door(Protocol[O]):
    """What is told of its seats, in terms of their owners. On the loop; must not raise."""

    def outputs(self, owners: list[O], first_seqs: list[int], steps: int, rows: Bytes2D) -> None:
        """Outputs of the seats; see `StepSink.outputs`."""

    def durable(self, owners: list[O], seqs: list[int]) -> None:
        """The store has confirmed the steps of each seat up to `seqs`."""

    def failed(self, refused: Sequence[tuple[O, int]], error: CarouselError) -> None:
        """Steps of each seat from its seq on were refused or failed; see `StepSink.failures`."""

    def bound(self, owner: O, session: SessionView) -> None:
        """A session is bound for the first time."""

    def refused(self, owner: O, error: CarouselError) -> None:
        """It could not be bound. The seat is free."""

    def away(self, owner: O, session: SessionView) -> None:
        """The session has gone to the store. It comes back when something is sent to the seat."""

    def left(self, owner: O, error: CarouselError | None) -> None:
        """The seat is free: given back, or lost for a reason."""

    def moved(self, owner: O, address: str) -> None:
        """The seat is free. Its session was released for the replica at `address`; see `StepSink.moved`."""


def not_fetched(error: CarouselError) -> CarouselError:
    """Why a seat is lost whose client waits for a Replay."""
    message = f"the session could not be fetched from the store: {error.message}"
    return CarouselError("LEASE_LOST", message, retry_after_s=error.retry_after_s)


def went_back(applied: int, kept: int) -> CarouselError:
    """Why a seat is lost whose session comes back in the past."""
    message = f"the store went back: step {kept} was kept, and now {applied} is the last"
    return CarouselError("LEASE_LOST", message, retry_after_s=_RETRY_AFTER_S)
