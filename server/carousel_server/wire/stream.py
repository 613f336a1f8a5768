"""One Attach stream: handles, and what goes between them and the engines.

The stream is the StepSink of all its sessions. Engines know a session by its tag: the handle in the low
32 bits, and in the high bits how many bindings the stream had made before, so that a result for an
earlier owner of a handle is told from one for the present owner.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, NamedTuple

from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.core.errors import CarouselError
from carousel_server.core.ports import Bind, Close, Command, EnginePort, Open, Unbind, WireMetrics
from carousel_server.core.types import Bytes2D, Int64s, SessionRef, SessionView

from .errors import status_of
from .outbox import Outbox
from .replies import call_on, close_orphan, tell
from .views import duration_of, session_message

_HANDLE_MASK = 0xFFFF_FFFF


class Binding(NamedTuple):
    """A session bound to a handle."""

    engine: EnginePort
    ref: SessionRef
    tag: int


class Stream:
    """Handles of one stream and the traffic back. Sink methods on engine threads, the rest on the loop."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, outbox: Outbox, metrics: WireMetrics
    ) -> None:
        self._loop = loop
        self.outbox = outbox
        self._metrics = metrics
        # Handle → session, for those that are bound.
        self.bound: dict[int, Binding] = {}
        # Handles whose Bind an engine has not answered yet, with their tags.
        self.binding: dict[int, int] = {}
        # Those of them that the client has asked back already, and whether to close the session too.
        self._leaving: dict[int, bool] = {}
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

    def failure(self, tag: int, seq: int, error: CarouselError) -> None:
        """Takes a refusal."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._failure, tag, seq, error)

    def unbound(self, tag: int, error: CarouselError) -> None:
        """Takes the news that a session has left."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._unbound, tag, error)

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

    def _failure(self, tag: int, seq: int, error: CarouselError) -> None:
        if self._owns(tag):
            self.refuse(tag & _HANDLE_MASK, error, seq)

    def _unbound(self, tag: int, error: CarouselError) -> None:
        if self._owns(tag):
            self._give_back(tag & _HANDLE_MASK, error)

    def _owns(self, tag: int) -> bool:
        binding = self.bound.get(tag & _HANDLE_MASK)
        return binding is not None and binding.tag == tag

    def refuse(self, handle: int, error: CarouselError, seq: int = 0) -> None:
        """Tells the client that a message or step was refused."""
        self.refuse_all({handle: seq}, error)

    def refuse_all(self, seqs: Mapping[int, int], error: CarouselError) -> None:
        """Tells the client of each handle, with its first step concerned, that it was refused."""
        status = status_of(error)
        for handle, seq in seqs.items():
            self._metrics.refused(error.reason)
            failure = pb.Failure(handle=handle, seq=seq, status=status)
            self.outbox.put(pb.AttachResponse(failure=failure))

    # -- binding: each step is the callback of the one before, so that no other session waits

    def begin(self, handle: int) -> int:
        """Reserves a handle; returns its tag."""
        self._bindings += 1
        tag = self._bindings << 32 | handle
        self.binding[handle] = tag
        return tag

    def open(self, handle: int, tag: int, engine: EnginePort, command: Open) -> None:
        """Opens a session, then binds it. If nobody learns its id, it is closed again."""
        orphan = not command.spec.session_id

        def opened(reply: Future[Any]) -> None:
            if self._closed:
                if orphan:
                    close_orphan(engine, reply)
            elif (error := _error_of(reply)) is not None:
                self._fail_binding(handle, error)
            else:
                self.bind(handle, tag, engine, reply.result()[0], orphan=orphan)

        if self._submit(handle, engine, command):
            call_on(self._loop, command.reply, opened)

    def bind(
        self, handle: int, tag: int, engine: EnginePort, ref: SessionRef, *, orphan: bool = False
    ) -> None:
        """Binds a session to a reserved handle; an `orphan` is closed if that does not succeed."""

        def answered(reply: Future[Any]) -> None:
            error = _error_of(reply)
            if self._closed:
                unwanted = orphan or self._leaving.get(handle, False)
                tell(engine, Close(ref) if unwanted else Unbind(ref, self))
            elif error is not None:
                self._fail_binding(handle, error)
            else:
                self._bind(handle, Binding(engine, ref, tag), reply.result())

        command = Bind(ref, self, tag)
        if self._submit(handle, engine, command):
            call_on(self._loop, command.reply, answered)
        elif orphan:
            tell(engine, Close(ref))

    def _submit(self, handle: int, engine: EnginePort, command: Command) -> bool:
        try:
            engine.submit(command)
        except CarouselError as error:
            self._fail_binding(handle, error)
            return False
        return True

    def _bind(self, handle: int, binding: Binding, view: SessionView) -> None:
        del self.binding[handle]
        self.bound[handle] = binding
        bound = pb.Bound(handle=handle, session=session_message(view))
        self.outbox.put(pb.AttachResponse(bound=bound))
        if handle in self._leaving:
            self.unbind(handle, close=self._leaving.pop(handle))

    def _fail_binding(self, handle: int, error: CarouselError) -> None:
        del self.binding[handle]
        self._leaving.pop(
            handle, None
        )  # answered by the same refusal: there is nothing to give back
        self.refuse(handle, error)

    def unbind(self, handle: int, *, close: bool) -> None:
        """Gives a bound handle back because the client asks for it."""
        engine, ref, _ = self.bound[handle]
        tell(engine, Close(ref) if close else Unbind(ref, self))
        self._give_back(handle, None)

    def unbind_later(self, handle: int, *, close: bool) -> None:
        """Gives a handle back whose Bind is under way, once it is bound: in the order of the asking."""
        self._leaving[handle] = close

    def _give_back(self, handle: int, error: CarouselError | None) -> None:
        del self.bound[handle]
        self._has_former = True
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
        for engine, ref, _ in self.bound.values():
            tell(engine, Unbind(ref, self))
        self.bound.clear()


def _error_of(reply: Future[Any]) -> CarouselError | None:
    error = reply.exception()
    assert error is None or isinstance(error, CarouselError), f"an engine answered {error!r}"
    return error
