"""The Attach stream of a client: a queue out, a reader thread in, the core between them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import grpc

from carousel._core.attach import AttachCore
from carousel._core.effects import Effects
from carousel._core.tickets import Ticket
from carousel._error_bases import (
    CarouselError,
    ClientClosedError,
    ConnectionLostError,
    ReplyTimeoutError,
)
from carousel._rpc_errors import error_of_call
from carousel_protos.v1 import carousel_pb2 as pb
from carousel_protos.v1.carousel_pb2_grpc import InferenceServiceStub

JOIN_TIMEOUT_S = 5.0

T = TypeVar("T", bound=Ticket)


class AttachStream:
    """One stream, shared by all threads and sessions of a client. Never opened again once lost."""

    def __init__(self, stub: InferenceServiceStub, metadata: tuple[tuple[str, str], ...]) -> None:
        self._core = AttachCore()
        # Guards the core, and that messages leave in the order in which the core made them.
        self._lock = threading.Lock()
        self._outgoing: queue.SimpleQueue[pb.AttachRequest | None] = queue.SimpleQueue()
        self._answered = False
        self.lost = False
        self._perform(self._core.hello())
        self._call = stub.Attach(iter(self._outgoing.get, None), metadata=metadata)
        self._reader = threading.Thread(target=self._read, name="carousel-attach", daemon=True)
        self._reader.start()

    def ask(
        self, event: Callable[[AttachCore], tuple[T | None, Effects]]
    ) -> tuple[T, threading.Event] | None:
        """Tells the core of an event; the ticket and what is set at its end. None: nothing to do."""
        done = threading.Event()
        with self._lock:
            ticket, effects = event(self._core)
            if ticket is not None:
                ticket.wake = done.set
            self._perform(effects)
        return None if ticket is None else (ticket, done)

    def tell(self, event: Callable[[AttachCore], Effects]) -> None:
        """Tells the core of an event that has no answer."""
        with self._lock:
            self._perform(event(self._core))

    @staticmethod
    def wait_done(asked: tuple[Ticket, threading.Event], timeout_s: float) -> None:
        """Waits for the end of a ticket, good or bad.

        Raises:
            ReplyTimeoutError: it has not ended in time; what it was for may still happen.
        """
        if not asked[1].wait(timeout_s):
            raise ReplyTimeoutError(f"no answer within {timeout_s:.3g} s")

    @classmethod
    def wait(cls, asked: tuple[Ticket, threading.Event], timeout_s: float) -> None:
        """Waits for the end of a ticket and raises its error. Raises as `wait_done`."""
        cls.wait_done(asked, timeout_s)
        asked[0].check()

    def close(self) -> None:
        """Ends the stream. Sessions live on at the server; whoever waits gets ClientClosedError."""
        self._end(ClientClosedError("the client was closed"))
        if self._reader is not threading.current_thread():
            self._reader.join(JOIN_TIMEOUT_S)

    def _perform(self, effects: Effects) -> None:
        for message in effects.send:
            self._outgoing.put(message)
        for ticket in effects.ended:
            ticket.wake()

    def _read(self) -> None:
        error: CarouselError = ConnectionLostError("the stream ended for a reason unknown")
        try:
            for response in self._call:
                self._answered = True
                with self._lock:
                    self._perform(self._core.receive(response))
            error = ConnectionLostError("the server ended the stream")
        except grpc.RpcError as failure:
            error = error_of_call(failure, on_stream=self._answered)
        except CarouselError as violation:
            error = violation
        finally:
            self._end(error)

    def _end(self, error: CarouselError) -> None:
        with self._lock:
            self.lost = True
            self._perform(self._core.lost(error))
        with suppress(ValueError):  # the channel is closed already
            self._call.cancel()
        self._outgoing.put(None)  # ends gRPC's sending thread
