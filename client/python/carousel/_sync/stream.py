"""The Attach stream of a client: its core, and the two threads that alone touch it.

gRPC's sending thread takes callers' requests out of a queue, tells the core of them and sends what the
core says; the reader thread tells the core of what the server says. A caller's own thread only puts
into the queue and waits: an exception that a signal raises there, as Ctrl-C does at any line of the
main thread, finds no core half changed and no message half sent.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TypeVar

import grpc

from carousel._core.attach import AttachCore
from carousel._core.effects import Effects
from carousel._core.tickets import Ticket
from carousel._error_bases import CarouselError, ClientClosedError, ConnectionLostError
from carousel._rpc_errors import error_of_call
from carousel_protos.v1 import carousel_pb2 as pb
from carousel_protos.v1.carousel_pb2_grpc import InferenceServiceStub

from .asked import Asked

JOIN_TIMEOUT_S = 60.0
"""For a reader whose call is cancelled already: gRPC ends it at once, if the machine lets it."""

T = TypeVar("T", bound=Ticket)


class AttachStream:
    """One stream, shared by all threads and sessions of a client. Never opened again once lost.

    Attributes:
        lost: it takes nothing more. Set by the reader thread, at its end.
    """

    def __init__(self, stub: InferenceServiceStub, metadata: tuple[tuple[str, str], ...]) -> None:
        self.lost = False
        self._core = AttachCore()
        # Guards the core and `_outgoing`, so that messages leave in the order in which it made them.
        self._lock = threading.Lock()
        self._outgoing: deque[pb.AttachRequest] = deque()
        # What callers ask for; None ends the sending thread.
        self._inbox: queue.SimpleQueue[Callable[[AttachCore], Effects] | None] = queue.SimpleQueue()
        self._answered = False  # the reader thread's
        self._closed = False
        self.tell(AttachCore.hello)
        self._call = stub.Attach(self._requests(), metadata=metadata)
        self._reader = threading.Thread(target=self._read, name="carousel-attach", daemon=True)
        self._reader.start()

    def ask(self, asked: Asked[T]) -> Asked[T]:
        """Tells the core of an event that has an answer, to be waited for."""
        self.tell(asked.tell)
        return asked

    def tell(self, event: Callable[[AttachCore], Effects]) -> None:
        """Tells the core of an event, soon; never waits. Safe in a finaliser, on any thread."""
        self._inbox.put(event)
        if self.lost:
            self._refuse_the_rest()

    def close(self) -> None:
        """Ends the stream. Sessions live on at the server; whoever waits gets ClientClosedError."""
        self._closed = True
        with suppress(ValueError):  # the channel is closed already
            self._call.cancel()
        if self._reader is not threading.current_thread():
            self._reader.join(JOIN_TIMEOUT_S)

    def _requests(self) -> Iterator[pb.AttachRequest]:
        """For gRPC's sending thread: each message when it is due."""
        while (event := self._inbox.get()) is not None:
            with self._lock:
                self._perform(event(self._core))
            while self._outgoing:
                yield self._outgoing.popleft()

    def _read(self) -> None:
        error: CarouselError = ConnectionLostError("the stream ended for a reason unknown")
        try:
            for response in self._call:
                self._answered = True
                with self._lock:
                    self._perform(self._core.receive(response))
                if self._outgoing:
                    self._inbox.put(_nothing)  # wakes the sending thread
            error = ConnectionLostError("the server ended the stream")
        except grpc.RpcError as failure:
            error = error_of_call(failure, on_stream=self._answered)
        except CarouselError as violation:
            error = violation
        finally:
            self._end(ClientClosedError("the client was closed") if self._closed else error)

    def _perform(self, effects: Effects) -> None:
        self._outgoing.extend(effects.send)
        for ticket in effects.ended:
            ticket.wake()

    def _end(self, error: CarouselError) -> None:
        with self._lock:
            self._perform(self._core.lost(error))
            self.lost = True
        self._refuse_the_rest()
        with suppress(ValueError):  # the channel is closed already
            self._call.cancel()

    def _refuse_the_rest(self) -> None:
        """The core is lost, so it refuses whatever it is told: nobody waits for ever."""
        with suppress(queue.Empty):
            while True:
                event = self._inbox.get_nowait()
                if event is not None:
                    with self._lock:
                        self._perform(event(self._core))
        self._inbox.put(None)


def _nothing(_core: AttachCore) -> Effects:
    return Effects()
