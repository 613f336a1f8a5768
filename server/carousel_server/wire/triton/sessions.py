"""The sequences of one model: their sessions, their blocks to the engine, and the outputs back.

No task and no future is made for a step: all steps that came in one turn of the loop go as one block, and all
outputs of one tick come back in one call, whatever streams they belong to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from collections.abc import Sequence as Several
from concurrent.futures import Future

from carousel_server.core.catalog import CatalogPort
from carousel_server.core.errors import STORE_WAITS, CarouselError
from carousel_server.core.futures import done, failed, then, tried
from carousel_server.core.ports import Close, EnginePort, Place, StepBlock, ask
from carousel_server.core.store import SessionKey
from carousel_server.core.types import Bytes2D, Durability, OpenSpec, SessionRef, SessionView
from carousel_server.wire.places import find_session
from carousel_server.wire.seat import NO_SEAT, Claim
from carousel_server.wire.seats import Seats
from carousel_server.wire.turns import Submissions

from .sequence import Sequence
from .tally import Tallies, TickTimes

_NEVER_WAS = ("SESSION_NOT_FOUND", "SESSION_CLOSED")
_GONE = (*_NEVER_WAS, "SESSION_EXPIRED")


class SequenceSessions:
    """The door of the sequences of one model: a `Door` and a `SequenceHost`. On the loop only."""

    def __init__(
        self,
        catalog: CatalogPort,
        engine: EnginePort,
        tallies: Tallies,
        leave: Callable[[Sequence], None],
    ) -> None:
        """`leave` is told of sequences that have nothing more to do."""
        self._catalog = catalog
        self._engine = engine
        self._tallies = tallies
        self.leave = leave
        self._loop = asyncio.get_running_loop()
        self.seats: Seats[Sequence] = Seats(Submissions(self._loop), catalog, self)
        self.window_steps = engine.model.window_steps
        self._row_bytes = engine.model.output_row_bytes
        # In the order of their coming, none twice: a block may hold a session once.
        self._ready: dict[Sequence, None] = {}

    # -- steps

    def send(self, sequence: Sequence) -> None:
        """Steps the sequence's `running` together with all others of its tenant in this turn of the loop."""
        if not self._ready:
            self._loop.call_soon(self._flush)
        self._ready[sequence] = None

    def _flush(self) -> None:
        ready, self._ready = self._ready, {}
        groups: dict[tuple[int, float, str], list[Sequence]] = {}
        for sequence in ready:
            if sequence.bound and sequence.running:  # not lost since
                running = sequence.running
                key = (len(running), running[0].deadline_s, sequence.tenant)
                groups.setdefault(key, []).append(sequence)
        for (steps, deadline_s, _), sequences in groups.items():
            self._submit(sequences, steps, deadline_s)

    def _submit(self, sequences: list[Sequence], steps: int, deadline_s: float) -> None:
        tag, ref = self.seats.tag, self.seats.ref
        seats = [sequence.seat for sequence in sequences]
        applied = [sequence.applied for sequence in sequences]
        block = StepBlock(
            sink=self.seats,
            tags=[tag[seat] for seat in seats],
            refs=[ref[seat] for seat in seats],
            first_seqs=[seq + 1 for seq in applied],
            steps=steps,
            inputs=b"".join([request.row for s in sequences for request in s.running]),
            acks=applied,
            deadline_s=deadline_s,
            tenant=sequences[0].tenant,
            resets=_resets_of(sequences, steps),
        )
        self._engine.submit_steps([block])

    def outputs(
        self, owners: list[Sequence], first_seqs: list[int], steps: int, rows: Bytes2D
    ) -> None:
        """See `Door.outputs`."""
        width, data = self._row_bytes, rows.tobytes()
        ran: dict[str, int] = {}
        self._tallies.tick = TickTimes(*self.seats.tick)
        at = 0
        for sequence, seq in zip(owners, first_seqs, strict=True):
            if sequence.applied + 1 != seq:
                at += steps * width
                continue
            ran[sequence.tenant] = ran.get(sequence.tenant, 0) + steps
            for _ in range(steps):
                sequence.stepped(data[at : at + width])
                at += width
        self._tallies.ran(ran)

    def failed(self, refused: Several[tuple[Sequence, int]], error: CarouselError) -> None:
        """See `Door.failed`. A request that waits for the store waits for its own deadline."""
        if STORE_WAITS in error.metadata:
            return
        for sequence, seq in refused:
            # One of steps that have been answered, or sent alone since, is old.
            if sequence.runs(seq):
                sequence.refused(error)

    def durable(self, owners: list[Sequence], seqs: list[int]) -> None:
        """Does nothing: Triton's clients keep no inputs."""

    # -- the session of a START

    def open(self, sequence: Sequence, spec: OpenSpec) -> None:
        """Opens a session, or takes the one that is there: the START's step resets it."""
        if sequence.seat:
            self._release(sequence)
        self._take(sequence, lambda: self._opened(sequence, spec))

    def _opened(self, sequence: Sequence, spec: OpenSpec) -> Future[Place]:
        """A session of this id, durability and initial state. Another one of this id is closed first."""
        taken = _taken(sequence)

        def close(place: Place) -> Future[Place]:
            self._check_here(sequence, place)
            closed = ask(place[0], Close(place[1]))
            return then(closed, lambda _: failed(taken), lambda _: failed(taken))

        def check(opened: tuple[SessionRef, SessionView]) -> Future[Place]:
            place = (self._engine, opened[0])
            return done(place) if opened[1].initial == spec.initial else close(place)

        def find(error: BaseException) -> Future[Place]:
            if _reason(error) != "SESSION_EXISTS":  # with other options
                return failed(error)
            found = find_session(self._catalog, _key(sequence))
            return then(found, close, lambda e: failed(taken if _reason(e) in _GONE else e))

        return tried(
            lambda: then(self._catalog.open(self._engine, spec), check, find),
            lambda error: error is taken,
        )

    # -- a session that is open

    def find(self, sequence: Sequence) -> None:
        """Binds the sequence's session, from its row or from the store."""
        self._take(sequence, lambda: self._found(sequence))

    def _found(self, sequence: Sequence) -> Future[Place]:
        def here(place: Place) -> Future[Place]:
            self._check_here(sequence, place)
            return done(place)

        def missing(error: BaseException) -> Future[Place]:
            return failed(not_started(sequence) if _reason(error) in _NEVER_WAS else error)

        return then(find_session(self._catalog, _key(sequence)), here, missing)

    def _check_here(self, sequence: Sequence, place: Place) -> None:
        if place[0] is not self._engine:  # a ref means another session there
            raise _elsewhere(sequence, place[0])

    def _take(self, sequence: Sequence, find: Callable[[], Future[Place]]) -> None:
        sequence.seat = self.seats.take(sequence, Claim(_key(sequence), find))
        self.seats.find(sequence.seat)

    def bound(self, owner: Sequence, session: SessionView) -> None:
        """See `Door.bound`."""
        if owner.starts:
            owner.opened(session)
        elif (
            session.whole or session.durability is not Durability.ASYNC
        ):  # the others lose no steps
            owner.found(session)
        else:
            self._release(owner)
            owner.found(_may_lack_steps(owner, session))

    def refused(self, owner: Sequence, error: CarouselError) -> None:
        """See `Door.refused`."""
        owner.seat = NO_SEAT
        if owner.starts:
            owner.opened(error)
        else:
            owner.found(error)

    # -- the end

    def close(self, sequence: Sequence) -> None:
        """Closes the session, on its row or, if it has just left that, in the store."""
        self.seats.release(sequence.seat, close=True)

    def away(self, owner: Sequence, _session: SessionView) -> None:
        """See `Door.away`. The sequence finds it again with its next request."""
        self._release(owner)
        owner.away()

    def moved(self, owner: Sequence, address: str) -> None:
        """Never called: the door's hold is CALLS."""
        raise AssertionError(f"{owner.session_id!r} moved to {address!r} from a door of calls")

    def left(self, owner: Sequence, error: CarouselError | None) -> None:
        """See `Door.left`. If a close is refused, the session ends by its idle_ttl or at the next START."""
        owner.seat = NO_SEAT
        if owner.ending:
            owner.ended()
        elif error is not None:
            owner.lost(error)

    def _release(self, sequence: Sequence) -> None:
        self.seats.release(sequence.seat, close=False)


def _resets_of(sequences: list[Sequence], steps: int) -> bytes:
    """The resets of a block with so many steps of each sequence; only its first step can have one."""
    if not any(sequence.resets for sequence in sequences):
        return b""
    rest = bytes(steps - 1)
    return b"".join(bytes((sequence.resets,)) + rest for sequence in sequences)


def _key(sequence: Sequence) -> SessionKey:
    return SessionKey(sequence.tenant, sequence.session_id)


def _reason(error: BaseException) -> str:
    return error.reason if isinstance(error, CarouselError) else ""


def not_started(sequence: Sequence) -> CarouselError:
    """A request without START for a sequence that is not running, in Triton's words."""
    return CarouselError(
        "SEQUENCE_NOT_STARTED",
        f"inference request for sequence {sequence.sequence_id} to model '{sequence.model}' must "
        "specify the START flag on the first request of the sequence",
        metadata={"session": sequence.session_id},
    )


def _taken(sequence: Sequence) -> CarouselError:
    return CarouselError(
        "SESSION_EXISTS",
        f"session {sequence.session_id} is opened and stepped by others, again and again",
        metadata={"session": sequence.session_id},
    )


def _elsewhere(sequence: Sequence, engine: EnginePort) -> CarouselError:
    return CarouselError(
        "SESSION_EXISTS",
        f"session {sequence.session_id} is open on model '{engine.model.name}', "
        f"not on '{sequence.model}'",
        metadata={"session": sequence.session_id, "model": engine.model.name},
    )


def _may_lack_steps(sequence: Sequence, view: SessionView) -> CarouselError:
    return CarouselError(
        "DATA_LOSS",
        f"sequence {sequence.sequence_id} comes from the store at step {view.applied}, and another "
        f"server process may have answered later ones: it was kept {view.durability.name}",
        metadata={"session": sequence.session_id, "applied": view.applied},
    )
