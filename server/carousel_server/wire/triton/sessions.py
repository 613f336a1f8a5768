"""Sessions for the sequences of one engine: opened, found, bound and closed by callbacks, never by tasks."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from carousel_server.core.errors import CarouselError
from carousel_server.core.ports import (
    Bind,
    CatalogPort,
    Close,
    EnginePort,
    Opened,
    Place,
    Unbind,
    ask,
)
from carousel_server.core.store import SessionKey
from carousel_server.core.types import Durability, OpenSpec, SessionRef, SessionView
from carousel_server.wire.parking import close_parked
from carousel_server.wire.replies import call_on, error_of

from .sequence import Sequence
from .sink import SequenceSink
from .tally import Tallies

_MOST_TRIES = 4
"""A session may be parked, or its id be taken, just before it is used: then the verb is begun again."""

_MOST_SEEN = 1 << 20
"""So many sequences are remembered; the older ones are treated like those of another process."""

_ON_ITS_ROW = -1

_LEFT = ("SESSION_PARKED", "LEASE_LOST")
_NEVER_WAS = ("SESSION_NOT_FOUND", "SESSION_CLOSED")
_GONE = (*_NEVER_WAS, "SESSION_EXPIRED")


class SequenceSessions:
    """The ground that the sequences of one engine stand on. Used on the loop only."""

    def __init__(
        self,
        catalog: CatalogPort,
        engine: EnginePort,
        tallies: Tallies,
        leave: Callable[[Sequence], None],
    ) -> None:
        self._catalog = catalog
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self.window_steps = engine.model.window_steps
        self._sink = SequenceSink(engine, self._loop, tallies, self._parked, self._left)
        self._leave = leave
        # Sessions that may lose steps and of which none is lost: (tenant, session id) → the epoch in
        # which this door had it last, and how many steps had run when it was parked.
        self._seen: OrderedDict[tuple[str, str], tuple[int, int]] = OrderedDict()

    def send(self, sequence: Sequence) -> None:
        """Steps `running`."""
        self._sink.send(sequence)

    def leave(self, sequence: Sequence) -> None:
        """The sequence is over, or in the store."""
        self._leave(sequence)

    # -- a session at step 0

    def open(self, sequence: Sequence, spec: OpenSpec, tries: int = _MOST_TRIES) -> None:
        """Opens a session; one that is there under its id is closed first: START means from zero."""
        self._sink.unbind(sequence.tag)
        self._seen.pop((sequence.tenant, sequence.session_id), None)
        try:
            reply = self._catalog.open(self._engine, spec)
        except CarouselError as error:
            self._loop.call_soon(sequence.opened, error)  # not at once: many may wait for the same
            return
        call_on(self._loop, reply, partial(self._opened, sequence, spec, tries))

    def _opened(self, sequence: Sequence, spec: OpenSpec, tries: int, reply: Opened) -> None:
        if (error := error_of(reply)) is not None:
            if error.reason == "SESSION_EXISTS" and tries > 1:  # with another durability
                self._open_again(sequence, spec, tries, None)
            else:
                sequence.opened(error)
            return
        ref, view = reply.result()
        if not view.applied:
            place = (self._engine, ref)
            self._bind(sequence, place, partial(self._bound_new, sequence, spec, tries))
        elif tries > 1:
            self._open_again(sequence, spec, tries, ref)
        else:
            sequence.opened(_taken(sequence))

    def _bound_new(
        self,
        sequence: Sequence,
        spec: OpenSpec,
        tries: int,
        ref: SessionRef,
        tag: int,
        reply: Future[SessionView],
    ) -> None:
        error = error_of(reply)
        if error is None:
            self._keep_in_mind(sequence, reply.result(), _ON_ITS_ROW)
            sequence.opened((ref, tag))
        elif error.reason in _LEFT and tries > 1:
            self.open(sequence, spec, tries - 1)
        else:
            sequence.opened(error)

    def _open_again(
        self, sequence: Sequence, spec: OpenSpec, tries: int, ref: SessionRef | None
    ) -> None:
        """Closes the session that has the id, then tries once more."""

        def close(engine: EnginePort, ref: SessionRef) -> None:
            call_on(self._loop, ask(engine, Close(ref)), closed)

        def found(reply: Future[Place]) -> None:
            if (error := error_of(reply)) is None:
                engine, ref = reply.result()
                if engine is self._engine:
                    close(engine, ref)
                else:
                    sequence.opened(_elsewhere(sequence, engine))
            elif error.reason in _GONE:
                self.open(sequence, spec, tries - 1)
            else:
                sequence.opened(error)

        def closed(_reply: Future[SessionView]) -> None:
            self.open(sequence, spec, tries - 1)

        if ref is not None:
            close(self._engine, ref)
        else:
            call_on(self._loop, self._catalog.resume(sequence.tenant, sequence.session_id), found)

    # -- a session that is open

    def find(self, sequence: Sequence, tries: int = _MOST_TRIES) -> None:
        """Binds the sequence's session, from its row or from the store."""
        try:
            place = self._catalog.resume(sequence.tenant, sequence.session_id)
        except CarouselError as error:
            self._loop.call_soon(sequence.found, error)
            return
        call_on(self._loop, place, partial(self._found, sequence, tries))

    def _found(self, sequence: Sequence, tries: int, reply: Future[Place]) -> None:
        if (error := error_of(reply)) is not None:
            never = error.reason in _NEVER_WAS
            sequence.found(not_started(sequence) if never else error)
            return
        place = reply.result()
        if place[0] is not self._engine:  # a ref means another session there
            sequence.found(_elsewhere(sequence, place[0]))
            return
        self._bind(sequence, place, partial(self._bound_old, sequence, tries))

    def _bound_old(
        self,
        sequence: Sequence,
        tries: int,
        ref: SessionRef,
        tag: int,
        reply: Future[SessionView],
    ) -> None:
        error = error_of(reply)
        if error is not None:
            if error.reason in _LEFT and tries > 1:
                self.find(sequence, tries - 1)
            else:
                sequence.found(error)
            return
        view = reply.result()
        if _is_whole(view, self._seen.get((sequence.tenant, sequence.session_id))):
            self._keep_in_mind(sequence, view, _ON_ITS_ROW)
            sequence.found((ref, tag, view))
        else:  # nothing is remembered of it, so that the next request without START is told the same
            self._sink.unbind(tag)
            ask(self._engine, Unbind(ref, self._sink, tag))
            sequence.found(_may_lack_steps(sequence, view))

    def _bind(
        self, sequence: Sequence, place: Place, then: Callable[[SessionRef, int, Any], None]
    ) -> None:
        engine, ref = place
        assert engine is self._engine, "a ref counts on its own engine only"
        tag = self._sink.bind(sequence)
        key = SessionKey(sequence.tenant, sequence.session_id)
        command = Bind(ref, self._sink, tag, key=key)

        def bound(reply: Future[SessionView]) -> None:
            if reply.exception() is not None:
                self._sink.unbind(tag)
            then(ref, tag, reply)

        call_on(self._loop, ask(engine, command), bound)

    # -- the end

    def close(self, sequence: Sequence) -> None:
        """Closes the session, on its row or, if it has just left that, in the store."""
        self._sink.unbind(sequence.tag)
        self._seen.pop((sequence.tenant, sequence.session_id), None)
        assert sequence.ref is not None, "only a bound sequence ends"

        def closed(reply: Future[SessionView]) -> None:
            error = error_of(reply)
            if error is not None and error.reason == "SESSION_PARKED":
                close_parked(self._catalog, sequence.tenant, sequence.session_id)
            sequence.ended()

        # If it is refused, the session ends by its idle_ttl or at the next START.
        call_on(self._loop, ask(self._engine, Close(sequence.ref)), closed)

    def _parked(self, sequence: Sequence, view: SessionView) -> None:
        self._keep_in_mind(sequence, view, view.applied)

    def _keep_in_mind(self, sequence: Sequence, view: SessionView, parked_at: int) -> None:
        """All steps of the session that were answered are in it."""
        if view.durability is not Durability.ASYNC:
            return
        key = (sequence.tenant, sequence.session_id)
        self._seen[key] = (view.epoch, parked_at)
        self._seen.move_to_end(key)
        if len(self._seen) > _MOST_SEEN:
            self._seen.popitem(last=False)

    def _left(self, sequence: Sequence, error: CarouselError) -> None:
        if error.reason != "SUPERSEDED":  # then it is on its row, and may come back to the door
            self._seen.pop((sequence.tenant, sequence.session_id), None)


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


def _is_whole(view: SessionView, seen: tuple[int, int] | None) -> bool:
    """True if no step that was answered is missing from a session.

    Only an async one comes back from the store without its last steps, and then in a new epoch. One that
    is on a row is no better for that: it came there by an earlier request, or by somebody else.
    """
    if view.durability is not Durability.ASYNC:
        return True
    if seen is None:
        return False
    epoch, parked_at = seen
    return view.epoch == epoch or view.applied == parked_at


def _may_lack_steps(sequence: Sequence, view: SessionView) -> CarouselError:
    return CarouselError(
        "DATA_LOSS",
        f"sequence {sequence.sequence_id} comes from the store at step {view.applied}, and another "
        f"server process may have answered later ones: it was kept {view.durability.name}",
        metadata={"session": sequence.session_id, "applied": view.applied},
    )
