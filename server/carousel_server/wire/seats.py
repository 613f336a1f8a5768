"""Seats: how every door holds its sessions. The one place that finds, binds and fetches them again.

A door holds each session in a seat, which has a number. The facts that steps need stand in columns by that
number, so that many steps can be sent together. What is seldom needed stands in the seat's Claim.

Engines know a seat by its tag: the seat in the low 32 bits, and above it how many bindings were begun.
So a result for an earlier owner of a seat is told from one for the present owner.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, Generic

from carousel_server.core.catalog import CatalogPort
from carousel_server.core.errors import CarouselError
from carousel_server.core.futures import failed, passes, then, tried
from carousel_server.core.moves import Hold
from carousel_server.core.ports import (
    Ack,
    Bind,
    Close,
    EnginePort,
    Place,
    Replay,
    StepBlock,
    Unbind,
    ask,
)
from carousel_server.core.types import Bytes2D, Int64s, ModelView, SessionRef, SessionView

from .places import close_for_good
from .replies import call_on, error_of
from .seat import NO_TAG, Claim, Door, Event, O, State, Tick, advance, not_fetched, went_back
from .seat_sink import LoopSink
from .turns import Submissions

_SEAT_BITS = 32
_SEAT_MASK = (1 << _SEAT_BITS) - 1
_NO_ROW = SessionRef(0, 0)


class Seats(LoopSink, Generic[O]):
    """The seats of one door. A `StepSink` by its base, whose methods are called on engine threads.

    Everything here is on the loop.

    Attributes:
        state, owner, tag: of each seat, by its number.
        engine, ref: where its session is; None while it is not BOUND.
        submissions: steps on their way to the engines.
        tick: when the tick of the outputs that the door gets now began, and when it sent them.
        hold: how the door's client learns that a session has left this replica.
    """

    def __init__(self, submissions: Submissions, catalog: CatalogPort, door: Door[O]) -> None:
        super().__init__(submissions.loop)
        self.submissions = submissions
        self._catalog = catalog
        self._door: Door[O] = weakref.proxy(door)  # the door holds its seats
        self.state: list[State] = [State.LEFT]
        self.owner: list[Any] = [None]
        self.tag: list[int] = [NO_TAG]
        self.engine: list[EnginePort | None] = [None]
        self.ref: list[SessionRef] = [_NO_ROW]
        self.claim: list[Claim | None] = [None]
        self._free: list[int] = []
        self.tick: Tick = (0.0, 0.0)
        self.hold = Hold.CALLS
        self._bindings = 0
        self._shut = False

    # -- results: on the loop

    def _outputs(self, tags: Int64s, firsts: Int64s, steps: int, rows: Bytes2D, tick: Tick) -> None:
        self.tick = tick
        seqs, seats, owner, tag_of = (
            firsts.tolist(),
            (tags & _SEAT_MASK).tolist(),
            self.owner,
            self.tag,
        )
        known = tags.tolist()
        if [tag_of[seat] for seat in seats] != known:  # some are for former owners
            mine = [i for i, seat in enumerate(seats) if tag_of[seat] == known[i]]
            seqs, seats, rows = [seqs[i] for i in mine], [seats[i] for i in mine], rows[mine]
        if seats:
            self._door.outputs([owner[seat] for seat in seats], seqs, steps, rows)

    def _durable(self, tags: Int64s, seqs: Int64s) -> None:
        known = {
            self.owner[seat]: seq
            for tag, seq in zip(tags.tolist(), seqs.tolist(), strict=True)
            if (seat := self._seat(tag)) is not None
        }
        if known:
            self._door.durable(list(known), list(known.values()))

    def _failures(self, tags: Sequence[int], seqs: Sequence[int], error: CarouselError) -> None:
        known: list[tuple[O, int]] = []
        for tag, seq in zip(tags, seqs, strict=True):
            if (seat := self._seat(tag)) is None:
                continue
            if self.engine[seat] is None and passes(error):
                self.replay(seat)  # a Replay that came too late
            else:
                known.append((self.owner[seat], seq))
        if known:
            self._door.failed(known, error)

    def _unbound(self, tag: int, error: CarouselError) -> None:
        if (seat := self._seat(tag)) is None:
            self._after_answer(tag, partial(self._unbound, tag, error))
        elif self.engine[seat] is not None:
            self._leave(seat, Event.LOSE, error)

    def _away(self, tag: int, session: SessionView) -> None:
        if (seat := self._seat(tag)) is None:
            self._after_answer(tag, partial(self._away, tag, session))
            return
        if self.engine[seat] is None:
            return
        self._advance(seat, Event.DEPART)
        claim = self._claim(seat)
        claim.applied, claim.epoch_floor = session.applied, session.epoch
        claim.ack = max(claim.ack, session.ack)
        self.engine[seat], self.ref[seat] = None, _NO_ROW
        self._door.away(self.owner[seat], session)

    def _returned(self, tag: int, block: StepBlock) -> None:
        """A block came too late. If no `away` came before it, `moved` follows: the client sends it again."""
        if (seat := self._seat(tag)) is None:
            return
        leaves = self.engine[seat] is not None and self.ref[seat] in block.refs
        if not leaves:
            self.send(seat, block)

    def _moved(self, tag: int, address: str) -> None:
        if (seat := self._seat(tag)) is None:
            self._after_answer(tag, partial(self._moved, tag, address))
        elif self.engine[seat] is not None:
            self._door.moved(self._vacate(seat, Event.MOVE), address)

    def _seat(self, tag: int) -> int | None:
        """The seat of a tag, unless the tag is of a former owner."""
        seat = tag & _SEAT_MASK
        return seat if seat < len(self.tag) and self.tag[seat] == tag else None

    def _after_answer(self, tag: int, told: Callable[[], None]) -> None:
        """Keeps what was told of a binding whose answer has not been taken yet.

        An engine may bind a session and give it up before the thread that asked has its future.
        """
        claim = self.claim[tag & _SEAT_MASK]
        if claim is not None and claim.tag == tag:
            claim.early.append(told)

    # -- finding and binding

    def take(self, owner: O, claim: Claim) -> int:
        """A seat for a session. Nothing is done for it before `find`."""
        if not self._free:
            self._free.append(len(self.state))
            self.state.append(State.LEFT)
            self.owner.append(None)
            self.tag.append(NO_TAG)
            self.engine.append(None)
            self.ref.append(_NO_ROW)
            self.claim.append(None)
        seat = self._free.pop()
        self.state[seat], self.owner[seat], self.claim[seat] = State.WANTED, owner, claim
        return seat

    def find(self, seat: int) -> None:
        """Finds the session of a seat and binds it, again if it leaves its row in between."""
        self.submissions.flush()
        claim = self._claim(seat)
        self._bindings += 1
        claim.tag = tag = self._bindings << _SEAT_BITS | seat
        claim.early = []

        def bind(place: Place) -> Future[SessionView]:
            claim.place = engine, ref = place
            if self._is_over(seat, claim, tag):  # it would take the session from another door
                return failed(CarouselError("SUPERSEDED", "the seat was given back"))
            key = claim.key if claim.key.id else None
            floor, ack = claim.epoch_floor, claim.ack
            return ask(engine, Bind(ref, self, tag, claim.attach_id, floor, ack, key, self.hold))

        bound = tried(lambda: then(claim.find(), bind), passes)
        call_on(self._loop, bound, partial(self._answered, seat, claim, tag))

    def _answered(self, seat: int, claim: Claim, tag: int, reply: Future[SessionView]) -> None:
        error = error_of(reply)
        if self._is_over(seat, claim, tag):
            self._undo(claim, tag, error)
        elif error is not None:
            self._not_bound(seat, claim, error)
        elif self.state[seat] is State.WANTED:
            self._bound(seat, claim, reply.result())
        else:
            self._bound_again(seat, claim, reply.result())
        if self.tag[seat] == tag:
            for told in claim.early:
                told()

    def _is_over(self, seat: int, claim: Claim, tag: int) -> bool:
        """True if the seat was given back while a binding was in flight."""
        return self._shut or self.claim[seat] is not claim or claim.tag != tag

    def _undo(self, claim: Claim, tag: int, error: CarouselError | None) -> None:
        if claim.place is not None:
            engine, ref = claim.place
            if claim.orphan or claim.closing:
                ask(engine, Close(ref))
            elif error is None:
                ask(engine, Unbind(ref, self, tag))

    def _bound(self, seat: int, claim: Claim, session: SessionView) -> None:
        claim.key = claim.key._replace(id=session.id)
        self._sit(seat, claim)
        self._door.bound(self.owner[seat], session)
        if claim.closing is not None:
            self.release(seat, close=claim.closing)

    def _bound_again(self, seat: int, claim: Claim, session: SessionView) -> None:
        """A session is back from the store: what waited for it goes on."""
        if session.applied < claim.applied:  # the client must look at what it still has (R9)
            self._undo(claim, claim.tag, None)
            self._leave(seat, Event.LOSE, went_back(session.applied, claim.applied))
            return
        self._sit(seat, claim)
        for seq, error in self._send_waiting(seat, claim):
            if not seq:  # a failure names steps that were sent; here the client waits for others
                self._undo(claim, claim.tag, None)
                self._leave(seat, Event.LOSE, not_fetched(error))
                return
            self._door.failed([(self.owner[seat], seq)], error)

    def _sit(self, seat: int, claim: Claim) -> None:
        assert claim.place is not None, "what is bound was found"
        self._advance(seat, Event.BIND)
        self.engine[seat], self.ref[seat] = claim.place
        self.tag[seat] = claim.tag
        claim.orphan = False

    def _send_waiting(self, seat: int, claim: Claim) -> Iterator[tuple[int, CarouselError]]:
        """Submits what waited, for the row that the session is on now.

        Yields what was refused and why: the first seq of a block, or 0 for the Replay. What follows a
        refused block is refused too, since it could only meet a gap.
        """
        engine, ref, tag = self.engine[seat], self.ref[seat], self.tag[seat]
        assert engine is not None, "it has just been bound"
        ask(engine, Ack(self, [ref], [claim.ack]))
        refused: CarouselError | None = None
        if claim.replay:
            claim.replay = False
            try:
                engine.submit(Replay(ref, self, tag))
            except CarouselError as error:
                yield 0, error
        for block in claim.take_blocks():
            block.tags, block.refs = [tag], [ref]
            try:
                if refused is None:
                    engine.submit(block)
            except CarouselError as error:
                refused = error
            if refused is not None:
                yield block.first_seqs[0], refused

    def _not_bound(self, seat: int, claim: Claim, error: CarouselError) -> None:
        if self.state[seat] is State.WANTED:
            if claim.orphan:
                self._undo(claim, claim.tag, error)
            self._door.refused(self._vacate(seat, Event.REFUSE), error)
        elif not error.spec.retryable:
            self._leave(seat, Event.LOSE, error)
        elif claim.replay:  # a failure names steps that were sent; here the client waits for others
            self._leave(seat, Event.LOSE, not_fetched(error))
        else:
            self._advance(seat, Event.POSTPONE)
            for block in claim.take_blocks():
                self._door.failed([(self.owner[seat], block.first_seqs[0])], error)

    # -- what a door sends

    def send(self, seat: int, block: StepBlock) -> None:
        """Sends a block of one row, or keeps it until its session is back from the store."""
        if (engine := self.engine[seat]) is not None:
            block.tags, block.refs = [self.tag[seat]], [self.ref[seat]]
            self.submissions.add(engine, block)
            return
        claim = self._claim(seat)
        claim.ack = max(claim.ack, *block.acks, 0)
        try:
            claim.add(block)
        except CarouselError as error:
            self._door.failed([(self.owner[seat], error.seq)], error)
            return
        self._fetch(seat)

    def acknowledge(self, acked: Iterable[tuple[int, int]]) -> None:
        """Outputs of each seat up to a seq were received: pairs of both."""
        by_engine: dict[EnginePort, tuple[list[SessionRef], list[int]]] = {}
        for seat, ack in acked:
            claim, engine = self._claim(seat), self.engine[seat]
            claim.ack = max(claim.ack, ack)
            if engine is not None:
                refs, upto = by_engine.setdefault(engine, ([], []))
                refs.append(self.ref[seat])
                upto.append(ack)
        for engine, (refs, upto) in by_engine.items():
            # A server that stops may refuse it. The next Bound tells the client what is known.
            self.submissions.ask(engine, Ack(self, refs, upto))

    def replay(self, seat: int) -> None:
        """Asks for the kept outputs."""
        if (engine := self.engine[seat]) is not None:
            self.submissions.ask(engine, Replay(self.ref[seat], self, self.tag[seat]))
        else:
            self._claim(seat).replay = True
            self._fetch(seat)

    def _fetch(self, seat: int) -> None:
        """Fetches a session from the store, unless that is under way."""
        if self.state[seat] is State.AWAY:
            claim = self._claim(seat)
            claim.find = partial(self._catalog.resume, *claim.key, claim.epoch_floor)
            self._advance(seat, Event.WANT)
            self.find(seat)

    # -- the end

    def release(self, seat: int, *, close: bool) -> None:
        """Gives a seat back; `left` says when, and a session that is closed has ended by then.

        A seat that is not bound yet is given back once it is: in the order of the asking.
        """
        claim, engine, ref = self._claim(seat), self.engine[seat], self.ref[seat]
        if self.state[seat] is State.WANTED:
            claim.closing = close
        elif close:
            self.submissions.flush()
            self._advance(seat, Event.CLOSE)
            self.tag[seat], self.engine[seat] = NO_TAG, None
            claim.tag = NO_TAG  # what is being fetched has no reader
            place = None if engine is None else (engine, ref)
            closed = close_for_good(self._catalog, claim.key, place)
            call_on(self._loop, closed, partial(self._closed, seat))
        else:
            if engine is not None:
                self.submissions.ask(engine, Unbind(ref, self, self.tag[seat]))
            self._leave(seat, Event.RELEASE, None)

    def _closed(self, seat: int, reply: Future[None]) -> None:
        if not self._shut:
            self._leave(seat, Event.END, error_of(reply))

    def shut(self) -> None:
        """Unbinds all sessions; they live on. Bindings in flight are undone when they arrive."""
        self._shut = True
        for seat, engine in enumerate(self.engine):
            if engine is not None:
                self.submissions.ask(engine, Unbind(self.ref[seat], self, self.tag[seat]))
        self.tag = [NO_TAG] * len(self.tag)
        self.engine = [None] * len(self.engine)

    def _leave(self, seat: int, event: Event, error: CarouselError | None) -> None:
        self._door.left(self._vacate(seat, event), error)

    def _vacate(self, seat: int, event: Event) -> O:
        self._advance(seat, event)
        owner: O = self.owner[seat]
        self.owner[seat], self.tag[seat] = None, NO_TAG
        self.engine[seat], self.ref[seat], self.claim[seat] = None, _NO_ROW, None
        self._free.append(seat)
        return owner

    def _advance(self, seat: int, event: Event) -> None:
        self.state[seat] = advance(self.state[seat], event)

    def takes_steps(self, seat: int) -> bool:
        """True if the session is bound, or was and comes back when it is needed."""
        return self.state[seat] in (State.BOUND, State.AWAY, State.FETCHED)

    def model(self, seat: int) -> ModelView:
        """The model of a session that was bound."""
        place = self._claim(seat).place
        assert place is not None, "it was found before it was bound"
        return place[0].model

    def _claim(self, seat: int) -> Claim:
        claim = self.claim[seat]
        assert claim is not None, "the seat is free"
        return claim
