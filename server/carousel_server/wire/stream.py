"""One Attach stream: handles, and what goes between them and the engines.

The stream is the StepSink of all its sessions. Engines know a session by its tag: the handle in the low
32 bits, and in the high bits how many bindings the stream had made before, so that a result for an
earlier owner of a handle is told from one for the present owner.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any

from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.core.errors import STORE_WAITS, CarouselError
from carousel_server.core.metering import WireMetrics
from carousel_server.core.ports import (
    Bind,
    CatalogPort,
    Close,
    EnginePort,
    Place,
    StepBlock,
    Unbind,
    ask,
)
from carousel_server.core.types import Bytes2D, Int64s, SessionRef, SessionView

from .binding import Binding, Wish
from .errors import count_refusal, status_of
from .outbox import Outbox
from .parking import (
    RETRY_AFTER_S,
    Parked,
    close_parked,
    close_session,
    not_fetched,
    went_back,
)
from .replies import call_on, error_of
from .views import duration_of, session_message

_HANDLE_MASK = 0xFFFF_FFFF

_MOST_TRIES = 4
"""A session may be parked, or its lease taken, just before it is bound: then it is fetched again."""


class Stream:
    """Handles of one stream and the traffic back. Sink methods on engine threads, the rest on the loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        outbox: Outbox,
        metrics: WireMetrics,
        catalog: CatalogPort,
        tenant: str,
    ) -> None:
        self._loop = loop
        self.outbox = outbox
        self._metrics = metrics
        self._catalog = catalog
        self.tenant = tenant
        # Handle → session, for those that are bound.
        self.bound: dict[int, Binding] = {}
        # Handles whose session is in the store for now.
        self.parked_handles: dict[int, Parked] = {}
        # Handle → last output that the client is known to have, news of which may come too late for a row.
        self.acked: dict[int, int] = {}
        # Handles whose Bind an engine has not answered yet, with their tags.
        self.binding: dict[int, int] = {}
        # Those of them that the client has asked back already, and whether to close the session too.
        self._leaving: dict[int, bool] = {}
        # Handles whose session the store has yet to forget.
        self.closing: set[int] = set()
        # How many bindings were begun; makes tags unique.
        self._bindings = 0
        # True once a handle was given back: from then on results may come for former owners.
        self._has_former = False
        self._closed = False

    # -- sink: on an engine's thread

    def outputs(self, tags: Int64s, first_seqs: Int64s, steps: int, rows: Bytes2D) -> None:
        """Takes outputs."""
        with suppress(RuntimeError):  # the loop has ended: nobody is reading
            self._loop.call_soon_threadsafe(self._outputs, tags, first_seqs, steps, rows)

    def failures(self, tags: Sequence[int], seqs: Sequence[int], error: CarouselError) -> None:
        """Takes refusals."""
        self._on_loop(self._failures, tags, seqs, error)

    def unbound(self, tag: int, error: CarouselError) -> None:
        """Takes the news that a session has left."""
        self._on_loop(self._unbound, tag, error)

    def durable(self, tags: Int64s, seqs: Int64s) -> None:
        """Takes the store's word."""
        self._on_loop(self._durable, tags, seqs)

    def parked(self, tag: int, session: SessionView) -> None:
        """Takes the news that a session is in the store for now."""
        self._on_loop(self._parked, tag, session)

    def returned(self, tag: int, block: StepBlock) -> None:
        """Takes back what came too late for a session that was parked."""
        self._on_loop(self._returned, tag, block)

    def _on_loop(self, callback: Callable[..., None], *args: Any) -> None:
        with suppress(RuntimeError):  # the loop has ended: nobody is reading
            self._loop.call_soon_threadsafe(callback, *args)

    # -- results: on the loop

    def _outputs(self, tags: Int64s, first_seqs: Int64s, steps: int, rows: Bytes2D) -> None:
        handles, firsts = (tags & _HANDLE_MASK).tolist(), first_seqs.tolist()
        if self._has_former:
            owned = [self._owns(tag) for tag in tags.tolist()]
            if not all(owned):
                handles = [h for h, own in zip(handles, owned, strict=True) if own]
                firsts = [s for s, own in zip(firsts, owned, strict=True) if own]
                rows = rows[owned]
        if handles:
            self.outbox.put_outputs(handles, firsts, steps, rows)

    def _failures(self, tags: Sequence[int], seqs: Sequence[int], error: CarouselError) -> None:
        refused: list[tuple[int, int]] = []
        for tag, seq in zip(tags, seqs, strict=True):
            if self._is_parked(tag) and error.reason == "SESSION_PARKED":  # a Replay, too late
                self.wake(tag & _HANDLE_MASK)
            elif self._owns(tag) or self._is_parked(tag):  # refused at the door, and parked since
                refused.append((tag & _HANDLE_MASK, seq))
        if refused and not (STORE_WAITS in error.metadata and self.outbox.crowded()):
            self.refuse_all(refused, error)

    def _unbound(self, tag: int, error: CarouselError) -> None:
        if self._owns(tag):
            self._give_back(tag & _HANDLE_MASK, error)

    def _durable(self, tags: Int64s, seqs: Int64s) -> None:
        known = [
            (tag & _HANDLE_MASK, seq)
            for tag, seq in zip(tags.tolist(), seqs.tolist(), strict=True)
            if self._owns(tag)
        ]
        if known:
            handles, durables = zip(*known, strict=True)
            durable = pb.Durable(handles=handles, durables=durables)
            self.outbox.put(pb.AttachResponse(durable=durable))

    def _parked(self, tag: int, session: SessionView) -> None:
        if self._owns(tag):
            handle = tag & _HANDLE_MASK
            ack = max(session.ack, self.acked.get(handle, 0))
            self.parked_handles[handle] = Parked(
                self.bound.pop(handle), session.applied, session.epoch, ack
            )
            self._has_former = True

    def _returned(self, tag: int, block: StepBlock) -> None:
        if self._is_parked(tag):
            self.wake(tag & _HANDLE_MASK, block)

    def _is_parked(self, tag: int) -> bool:
        parked = self.parked_handles.get(tag & _HANDLE_MASK)
        return parked is not None and parked.binding.tag == tag

    def _owns(self, tag: int) -> bool:
        binding = self.bound.get(tag & _HANDLE_MASK)
        return binding is not None and binding.tag == tag

    def refuse(self, handle: int, error: CarouselError, seq: int = 0) -> None:
        """Tells the client that a message or step was refused."""
        self.refuse_all([(handle, seq)], error)

    def refuse_all(self, refused: Sequence[tuple[int, int]], error: CarouselError) -> None:
        """Tells the client of handles, each with its first step concerned, that they were refused.

        One message for all: where there is too much to do, to say so must not cost more than to do it.
        """
        count_refusal(self._metrics, error, len(refused))
        handle, seq = refused[0]
        failure = pb.Failure(handle=handle, seq=seq, status=status_of(error))
        if len(refused) > 1:
            failure.handles.extend(handle for handle, _ in refused)
            failure.seqs.extend(seq for _, seq in refused)
        self.outbox.put(pb.AttachResponse(failure=failure))

    # -- binding: each step is the callback of the one before, so that no other session waits

    def is_free(self, handle: int) -> bool:
        """True if no session has the handle or is about to get it."""
        held = (self.bound, self.binding, self.parked_handles, self.closing)
        return not any(handle in some for some in held)

    @property
    def handles(self) -> int:
        """How many handles are in use."""
        held = len(self.bound) + len(self.parked_handles)
        return held + len(self.binding) + len(self.closing)

    def bind(
        self,
        handle: int,
        find: Callable[[], Future[Place]],
        *,
        attach_id: int = 0,
        epoch_floor: int = 0,
        orphan: bool = False,
    ) -> None:
        """Finds a session and binds it to a free handle."""
        tag = self._new_tag(handle)
        self.binding[handle] = tag
        self._seek(Wish(handle, tag, find, attach_id, epoch_floor, orphan=orphan))

    def wake(self, handle: int, block: StepBlock | None = None) -> None:
        """Fetches the session of a parked handle, for a block or for a Replay."""
        parked = self.parked_handles[handle]
        try:
            if block is not None:
                parked.add(block, RETRY_AFTER_S)
        except CarouselError as error:
            self.refuse(handle, error, error.seq)
            return
        parked.replay |= block is None
        if parked.waking:
            return
        session_id, attach_id = parked.binding.session_id, parked.binding.attach_id
        find = partial(self._catalog.resume, self.tenant, session_id, parked.epoch)
        tag = parked.waking = self._new_tag(handle)
        wish = Wish(handle, tag, find, attach_id, parked.epoch, parked.ack, quiet=True)
        self._seek(wish)

    def _new_tag(self, handle: int) -> int:
        self._bindings += 1
        return self._bindings << 32 | handle

    def _seek(self, wish: Wish) -> None:
        wish.tries += 1
        try:
            found = wish.find()
        except CarouselError as error:
            self._fail(wish, error)
            return
        call_on(self._loop, found, partial(self._found, wish))

    def _found(self, wish: Wish, reply: Future[Place]) -> None:
        if (error := error_of(reply)) is not None:
            if not self._closed:
                self._fail(wish, error)
            return
        engine, ref = reply.result()
        if self._closed:
            if self._unwanted(wish):
                ask(engine, Close(ref))
            return
        command = Bind(ref, self, wish.tag, wish.attach_id, wish.epoch_floor, wish.ack)
        call_on(self._loop, ask(engine, command), partial(self._answered, wish, engine, ref))

    def _answered(
        self, wish: Wish, engine: EnginePort, ref: SessionRef, reply: Future[SessionView]
    ) -> None:
        error = error_of(reply)
        if self._closed:
            ask(engine, Close(ref) if self._unwanted(wish) else Unbind(ref, self, wish.tag))
        elif error is None:
            view = reply.result()
            self._bind(wish, Binding(engine, ref, wish.tag, view.id, wish.attach_id), view)
        elif error.reason in ("SESSION_PARKED", "LEASE_LOST") and wish.tries < _MOST_TRIES:
            self._seek(wish)
        else:
            if wish.orphan:
                ask(engine, Close(ref))
            self._fail(wish, error)

    def _unwanted(self, wish: Wish) -> bool:
        """True if the client has asked to close the session, or could never name it."""
        return wish.orphan or self._leaving.get(wish.handle, False)

    def _bind(self, wish: Wish, binding: Binding, view: SessionView) -> None:
        handle = wish.handle
        if wish.quiet:
            self._bind_again(handle, binding, view)
            return
        del self.binding[handle]
        self.bound[handle] = binding
        bound = pb.Bound(handle=handle, session=session_message(view))
        self.outbox.put(pb.AttachResponse(bound=bound))
        if handle in self._leaving:
            self.unbind(handle, close=self._leaving.pop(handle))

    def _bind_again(self, handle: int, binding: Binding, view: SessionView) -> None:
        """A parked session is back: what waited for it goes on."""
        parked = self.parked_handles.get(handle)
        if parked is None or parked.waking != binding.tag:  # the handle was given back meanwhile
            ask(binding.engine, Unbind(binding.ref, self, binding.tag))
            return
        if view.applied < parked.applied:  # the client must look at what it still has (R9)
            ask(binding.engine, Unbind(binding.ref, self, binding.tag))
            self._give_back(handle, went_back(view.applied, parked.applied))
            return
        del self.parked_handles[handle]
        self.bound[handle] = binding
        self.acked[handle] = parked.ack  # should the session be parked again before it hears of it
        for seq, error in parked.go_on(binding, self):
            if not seq:  # a failure names steps that were sent; here the client waits for others
                ask(binding.engine, Unbind(binding.ref, self, binding.tag))
                self._give_back(handle, not_fetched(error))
                return
            self.refuse(handle, error, seq)

    def _fail(self, wish: Wish, error: CarouselError) -> None:
        handle = wish.handle
        if not wish.quiet:
            del self.binding[handle]
            # Answered by the same refusal: there is nothing to give back.
            self._leaving.pop(handle, None)
            self.refuse(handle, error)
            return
        parked = self.parked_handles.get(handle)
        if parked is None or parked.waking != wish.tag:
            return
        if not error.spec.retryable:
            self._give_back(handle, error)
            return
        if parked.replay:  # a failure names steps that were sent; here the client waits for others
            self._give_back(handle, not_fetched(error))
            return
        parked.waking = 0
        for block in sorted(parked.blocks, key=lambda block: block.first_seqs[0]):
            self.refuse(handle, error, block.first_seqs[0])
        parked.blocks.clear()

    def unbind(self, handle: int, *, close: bool) -> None:
        """Gives a handle back because the client asks for it; a closed one when the store knows too."""
        parked, binding = self.parked_handles.get(handle), self.bound.get(handle)
        self._leave(handle)
        if not close:
            if binding is not None:
                ask(binding.engine, Unbind(binding.ref, self, binding.tag))
            self._tell_unbound(handle, None)
            return
        self.closing.add(handle)
        if binding is not None:
            closed = close_session(self._catalog, self.tenant, binding)
        else:
            assert parked is not None, "neither bound nor parked"
            closed = close_parked(self._catalog, self.tenant, parked.binding.session_id)
        call_on(self._loop, closed, partial(self._tell_closed, handle))

    def unbind_later(self, handle: int, *, close: bool) -> None:
        """Gives a handle back whose Bind is under way, once it is bound: in the order of the asking."""
        self._leaving[handle] = close

    def _give_back(self, handle: int, error: CarouselError) -> None:
        self._leave(handle)
        self._tell_unbound(handle, error)

    def _leave(self, handle: int) -> None:
        if self.parked_handles.pop(handle, None) is None:
            del self.bound[handle]
        self.acked.pop(handle, None)
        self._has_former = True

    def _tell_closed(self, handle: int, closed: Future[None]) -> None:
        self.closing.discard(handle)
        self._tell_unbound(handle, error_of(closed))

    def _tell_unbound(self, handle: int, error: CarouselError | None) -> None:
        status = None if error is None else status_of(error)
        self.outbox.put(pb.AttachResponse(unbound=pb.Unbound(handle=handle, status=status)))

    # -- the end

    def announce_drain(self, grace_s: float) -> None:
        """Tells the client that the stream will end, and when."""
        self.outbox.put(pb.AttachResponse(drain=pb.Drain(grace=duration_of(grace_s))))

    def finish(self, error: CarouselError) -> None:
        """Sends what is ready, then ends the stream with `error`."""
        self.outbox.end(error)

    def close(self) -> None:
        """Unbinds all sessions; they live on. Bindings on their way are undone when they arrive."""
        self._closed = True
        self.outbox.end(None)
        for binding in self.bound.values():
            ask(binding.engine, Unbind(binding.ref, self, binding.tag))
        self.bound.clear()
        self.parked_handles.clear()
