"""The seams: what the wire asks of an engine, and what an engine asks of the wire.

Threads: the wire lives on the event loop, each engine on a thread of its own. What goes to an engine is
one `submit` of a command into a bounded inbox. What comes back is a call of a sink or the result of a
future. Sinks are called on the engine's thread: they return at once, never raise, and use their own loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, cast, overload

import numpy as np

from .errors import CarouselError, refusal_of
from .futures import Internal, WithoutReply, WithReply
from .moves import HandOver, Hold, MoveAway, Released, SetOwners
from .sinks import StepSink, TokenSink
from .store import Outcome, Record, SessionKey
from .types import (
    Bytes2D,
    GenerateSpec,
    Int64s,
    ModelView,
    OpenSpec,
    SessionRef,
    SessionView,
    StateBytes,
)

T = TypeVar("T")

NO_DEADLINE = float("inf")


# -- commands: what an engine's inbox takes. The futures resolve on the engine's thread.


@dataclass(slots=True)
class Open(WithReply[tuple[SessionRef, SessionView]]):
    """Opens a session. Repeating it with the same id and settings yields the open session."""

    spec: OpenSpec
    reply: Future[tuple[SessionRef, SessionView]] = field(default_factory=Future)


@dataclass(slots=True)
class Get(WithReply[SessionView]):
    """Reads a session."""

    ref: SessionRef
    reply: Future[SessionView] = field(default_factory=Future)


@dataclass(slots=True)
class List(WithReply[list[SessionView]]):
    """Reads sessions of a tenant on this engine: the `limit` first ones whose ids come after `after`."""

    tenant: str
    after: str = ""
    limit: int = 1000
    reply: Future[list[SessionView]] = field(default_factory=Future)


@dataclass(slots=True)
class Close(WithReply[SessionView]):
    """Closes a session; its pending steps are dropped."""

    ref: SessionRef
    reply: Future[SessionView] = field(default_factory=Future)


@dataclass(slots=True)
class Bind(WithReply[SessionView]):
    """Sends a session's outputs to `sink` under `tag` from now on; an older sink is told SUPERSEDED.

    Outputs of ack+1 … applied that were kept are not sent by themselves: see Replay. A session that a
    store keeps is bound when the store has all that has run: `durable` equals `applied` in the reply.

    Args:
        attach_id: grows with each binding; lower than the session has seen: SUPERSEDED. 0 always wins.
        epoch_floor: highest epoch that the client has seen; a session of a lower one is LEASE_LOST.
        ack: last output that the client is known to have received.
        key: whose session it must be; with another on the row it is refused as SESSION_NOT_FOUND.
        hold: how the sink's client learns that the session has left this replica.
    """

    ref: SessionRef
    sink: StepSink
    tag: int
    attach_id: int = 0
    epoch_floor: int = 0
    ack: int = 0
    key: SessionKey | None = None
    hold: Hold = Hold.CALLS
    reply: Future[SessionView] = field(default_factory=Future)


@dataclass(slots=True)
class Unbind(WithoutReply):
    """Stops sending a session's outputs to `sink`, if it is still the one. The session lives on.

    With a `tag`, only if the session is bound under that: the sink may have bound it again meanwhile.
    """

    ref: SessionRef
    sink: StepSink
    tag: int | None = None


Column = Sequence[int] | Int64s
"""A number for each session of a block."""


def numbers(column: Column) -> Sequence[int]:
    """A column as Python's numbers."""
    return column.tolist() if isinstance(column, np.ndarray) else column


@dataclass(slots=True)
class StepBlock:
    """The same number of consecutive steps of each of n sessions. Columns run in parallel.

    Each row of the block is accepted or refused on its own, in the sink's `failure`. A column is a sequence
    of numbers, or int64[n]. `refs` may be int64[n, 2], rows and generations. Arrays cost the engine least.

    Args:
        sink: the sender; a row whose session is bound to another sink is refused as SUPERSEDED.
        tags: the sink's numbers of the sessions.
        refs: the sessions; none twice.
        first_seqs: seq of the first step of each.
        steps: how many of each, at least 1.
        inputs: raw little-endian bytes of shape [n, steps, input row]; its size has been checked.
        acks: last received output of each; empty for "no news".
        deadline_s: an instant of the monotonic clock.
        tenant: whose sessions they are, for its share of the inbox.
        resets: which steps start from their session's initial state, a byte of 0 or 1 for each of [n, steps];
            its size and values have been checked. Empty for none.
    """

    sink: StepSink
    tags: Column
    refs: Sequence[SessionRef] | Int64s
    first_seqs: Column
    steps: int
    inputs: bytes
    acks: Column = ()
    deadline_s: float = NO_DEADLINE
    tenant: str = ""
    resets: bytes = b""

    def refuse(self, error: CarouselError) -> None:
        """Sends the error to the sink for each session."""
        self.sink.failures(numbers(self.tags), numbers(self.first_seqs), error)


@dataclass(slots=True)
class Ack(WithoutReply):
    """Outputs of each session up to `acks` were received and may be forgotten.

    Counts for sessions that are bound to `sink`, not to a newer stream.
    """

    sink: StepSink
    refs: Sequence[SessionRef]
    acks: Sequence[int]


@dataclass(slots=True)
class Replay:
    """Sends the kept outputs of ack+1 … applied to the session's sink again.

    A refusal goes to the sink's `failure`, under `tag`; SESSION_PARKED if the session has just left.
    """

    ref: SessionRef
    sink: StepSink
    tag: int = 0

    def refuse(self, error: CarouselError) -> None:
        """Sends the error to the sink under the tag."""
        self.sink.failures([self.tag], [error.seq], error)


@dataclass(slots=True)
class Generate:
    """Starts a generation in a session. Ends with `finished` or `failed` of the sink.

    `close_after` closes the session when the generation has ended, well or not. `asked_s` is the monotonic
    instant of the call: of two that ask for the same generation, the later has it.
    """

    ref: SessionRef
    spec: GenerateSpec
    sink: TokenSink
    close_after: bool = False
    asked_s: float = 0.0

    def refuse(self, error: CarouselError) -> None:
        """Ends the sink's generation."""
        self.sink.failed(error)


@dataclass(slots=True)
class CancelGenerate(WithoutReply):
    """Ends the generation of a session if it is `sink`'s; the session's state stays where it is."""

    ref: SessionRef
    sink: TokenSink


@dataclass(slots=True)
class Infer(WithReply[Bytes2D]):
    """A whole sequence. The result is uint8[steps, output_row_bytes].

    `inputs` are raw bytes of shape [steps, input row]. `initial` is as in `OpenSpec`. Cancelling the future
    withdraws it. Sequences of different `tenant`s take turns.
    """

    inputs: bytes
    deadline_s: float = NO_DEADLINE
    tenant: str = ""
    initial: str = ""
    reply: Future[Bytes2D] = field(default_factory=Future)


@dataclass(slots=True)
class Export(WithReply[tuple[bytes, SessionView]]):
    """Takes a snapshot between two ticks."""

    ref: SessionRef
    reply: Future[tuple[bytes, SessionView]] = field(default_factory=Future)


@dataclass(slots=True)
class ReadState(WithReply[tuple[StateBytes, SessionView]]):
    """Reads the states of a session between two ticks, in the model's order."""

    ref: SessionRef
    reply: Future[tuple[StateBytes, SessionView]] = field(default_factory=Future)


@dataclass(slots=True)
class Draft(WithReply[bytes]):
    """Makes the snapshot of a session that is about to be opened, with its initial state."""

    spec: OpenSpec
    reply: Future[bytes] = field(default_factory=Future)


@dataclass(slots=True)
class Import(WithReply[tuple[SessionRef, SessionView]]):
    """Opens a session that no store keeps from a snapshot. `spec.session_id` as in Open."""

    snapshot: bytes
    spec: OpenSpec
    reply: Future[tuple[SessionRef, SessionView]] = field(default_factory=Future)


@dataclass(slots=True)
class Fork(WithReply[tuple[SessionRef, SessionView]]):
    """Opens a session that no store keeps with a copy of another's state and cursors.

    Pending steps are not copied.
    """

    ref: SessionRef
    spec: OpenSpec
    reply: Future[tuple[SessionRef, SessionView]] = field(default_factory=Future)


@dataclass(slots=True)
class Activate(WithReply[SessionRef]):
    """Brings a session that the store has given to this replica onto a row.

    Args:
        record: what the store has of it.
        asked: its holder has released it, because this replica had asked for it.
        taken_over: its client cannot reach the replica that it comes from. No rebalance sends it back soon.
        lease: how many leases this replica had lost before it asked the store. If it has lost one since,
            the session may be another replica's.
    """

    record: Record
    asked: bool = False
    taken_over: bool = False
    lease: int = 0
    reply: Future[SessionRef] = field(default_factory=Future)


@dataclass(slots=True)
class Committed(Internal, WithoutReply):
    """The store's answer to the snapshots of `refs`, taken at `seqs`; or why there is none."""

    refs: Sequence[SessionRef]
    seqs: Int64s
    answer: Sequence[Outcome] | CarouselError


Command = (
    Open
    | Get
    | List
    | Close
    | Bind
    | Unbind
    | StepBlock
    | Ack
    | Replay
    | Generate
    | CancelGenerate
    | Infer
    | Export
    | ReadState
    | Draft
    | Import
    | Fork
    | Activate
    | Committed
    | HandOver
    | MoveAway
    | SetOwners
    | Released
)


class EnginePort(Protocol):
    """One model behind a bounded inbox."""

    @property
    def model(self) -> ModelView:
        """The model served; constant."""

    @property
    def healthy(self) -> bool:
        """False once the device has failed for good, or the engine's thread has stopped moving."""

    def submit(self, command: Command) -> None:
        """Puts a command into the inbox, from any thread.

        Raises:
            CarouselError: QUEUE_FULL (never for an Ack), MODEL_UNHEALTHY or DRAINING; nothing was taken.
        """

    def submit_steps(self, blocks: Sequence[StepBlock]) -> None:
        """Puts blocks into the inbox together, from any thread. The sink of a refused one gets the error."""

    async def encode_text(self, text: str) -> Int64s:
        """Token ids of a text, int64[n]; a long one holds up no other call.

        Raises:
            CarouselError: TEXT_UNAVAILABLE if the model names no tokenizer.
        """

    async def encode_prompt(self, text: str) -> tuple[Int64s, int]:
        """Token ids of a text to go on from, and how many of them open a text; as `encode_text`."""


@overload
def ask(engine: EnginePort, command: WithReply[T]) -> Future[T]: ...
@overload
def ask(engine: EnginePort, command: Replay | Generate | WithoutReply) -> None: ...
def ask(engine: EnginePort, command: Any) -> Future[Any] | None:
    """Submits a command; returns its future. Never raises: a refusal, or a defect, is its answer."""
    try:
        engine.submit(cast("Command", command))
    except Exception as error:  # noqa: BLE001 - a caller must learn of a defect too
        command.refuse(refusal_of(error))
        if isinstance(command, Generate) and command.close_after:
            ask(engine, Close(command.ref))
    return getattr(command, "reply", None)


Place = tuple[EnginePort, SessionRef]
"""A session on a row: its engine, and where it is there."""

Opened = Future[tuple[SessionRef, SessionView]]
"""A session that has just been opened, or why not."""
