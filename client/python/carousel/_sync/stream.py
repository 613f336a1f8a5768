"""The Attach streams of a client, one after the other. Two threads touch their core, and no others.

gRPC's sending thread takes callers' requests, hands them to the core and sends the core's messages. The
reader thread hands the server's messages to the core, and survives the end of a stream. A caller's own
thread only adds to a deque, puts a token into a queue and waits. So an exception that a signal raises
there, as Ctrl-C does at any line of the main thread, leaves no core half changed and no message half sent.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, TypeVar

import grpc

from carousel._core.attach import AttachCore
from carousel._core.effects import Effects
from carousel._core.tickets import Ticket
from carousel._error_bases import (
    CarouselError,
    ClientClosedError,
    ConnectionLostError,
    ServerFaultError,
)
from carousel._rpc_errors import error_of_call
from carousel_protos.v1 import carousel_pb2 as pb

from .pending import Pending
from .services import Services

JOIN_TIMEOUT_S = 60.0
"""For a reader whose call is cancelled already: gRPC ends it at once, if the machine lets it."""

T = TypeVar("T", bound=Ticket)
Event = Callable[[AttachCore], Effects]


class _Connection:
    """One stream, or the pause before the next. Each has queues of its own, so that its threads cannot
    take what is meant for the next one.

    Attributes:
        wake: a token for each event, and for each time that messages or timers change.
        outgoing: messages to be sent.
        call: gRPC's, once there is one.
    """

    def __init__(self) -> None:
        self.wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.outgoing: deque[pb.AttachRequest] = deque()
        self.call: Any = None

    def cancel(self) -> None:
        """Ends the call, if there is one."""
        with suppress(ValueError):  # the channel is closed already
            if self.call is not None:
                self.call.cancel()

    def wait(self, until_s: float | None) -> None:
        """For a token, or the instant."""
        if until_s is None:
            self.wake.get()
            return
        with suppress(queue.Empty):
            self.wake.get(timeout=max(until_s - time.monotonic(), 0.0))


class AttachStream:
    """Shared by all threads and sessions of a client, for its whole life.

    Attributes:
        core: touched by this object's threads only, under its lock; `statistics` may be read.
        services: the server that the streams lead to.
    """

    def __init__(self, core: AttachCore, services: Services) -> None:
        self.core = core
        self.services = services
        self._calls = services.calls
        self._stub = services.inference
        # Guards the core, the order of events, and which connection is the present one.
        self._lock = threading.RLock()
        self._events: deque[Event] = deque()
        self._connection = _Connection()
        self._due_s: float | None = None
        self._reconnect_at_s: float | None = None
        self._closed = False
        self._ended = False
        self._reader = threading.Thread(target=self._run, name="carousel-attach", daemon=True)
        self._reader.start()

    def ask(self, pending: Pending[T]) -> Pending[T]:
        """Hands an event that has an answer to the core.

        Raises:
            ClientClosedError: in a forked child, which has none of this object's threads.
        """
        self._calls.home.check()
        self.tell(pending.tell)
        return pending

    def tell(self, event: Event) -> None:
        """Hands an event to the core, soon. Never waits. Safe in a finaliser, on any thread.

        In a forked child it does nothing: the parent has the session.
        """
        if self._calls.home.left:
            return
        self._events.append(event)
        # Looked up after the event is there: a connection that begins later looks for events itself.
        self._connection.wake.put(None)
        if self._ended:
            self._refuse_remaining()

    def close(self) -> None:
        """Ends the stream. Sessions stay open at the server. Callers that wait get ClientClosedError."""
        self._closed = True
        connection = self._connection
        connection.cancel()
        connection.wake.put(None)
        if self._reader is not threading.current_thread():
            self._reader.join(JOIN_TIMEOUT_S)

    # -- the reader thread

    def _run(self) -> None:
        try:
            while not self._closed:
                error = self._talk()
                if not self._closed:
                    self._pause(error)
        finally:
            former = self._connection
            with self._lock:
                self._connection = _Connection()
                self._perform(self.core.close(ClientClosedError("the client was closed")))
                self._ended = True
            former.wake.put(None)
            self._refuse_remaining()

    def _talk(self) -> CarouselError:
        """Opens a stream and reads it to its end. Returns why it ended."""
        answered = False
        connection = _Connection()
        self._begin(connection, self.core.connected)
        try:
            requests = self._requests(connection)
            connection.call = self._stub.Attach(requests, metadata=self._calls.options.metadata)
            if self._closed:
                connection.cancel()
            for response in connection.call:
                answered = True
                self._calls.watch.answered()
                self._take(connection, response)
            return ConnectionLostError("the server ended the stream")
        except grpc.RpcError as failure:
            return error_of_call(failure, on_stream=answered)
        except CarouselError as violation:
            return violation
        except ValueError as error:  # gRPC raises it for a channel that was closed
            return ClientClosedError(str(error))
        except Exception as error:  # noqa: BLE001 - a defect of ours ends the sessions, not the waits
            return ServerFaultError(f"the client failed on a message: {error!r}", reason="INTERNAL")
        finally:
            connection.cancel()

    def _take(self, connection: _Connection, response: pb.AttachResponse) -> None:
        with self._lock:
            due_s = self._due_s
            self._perform(self.core.receive(response, time.monotonic()))
            changed = self._due_s != due_s
        if connection.outgoing or changed:
            connection.wake.put(None)

    def _pause(self, error: CarouselError) -> None:
        """Waits until the next stream is due. Meanwhile does what callers ask for."""
        connection, former = _Connection(), self._connection
        self._begin(connection, lambda: self.core.broken(error, time.monotonic()))
        former.wake.put(None)  # its sending thread ends
        if self._reconnect_at_s is not None:
            self._calls.watch.looking(error)
        while not self._closed:
            at_s = self._reconnect_at_s
            if at_s is not None and at_s <= time.monotonic():
                return
            known = [instant for instant in (at_s, self._due_s) if instant is not None]
            connection.wait(min(known, default=None))
            with self._lock:
                self._work()

    def _begin(self, connection: _Connection, event: Callable[[], Effects]) -> None:
        """A connection replaces the one before. Its first event comes before all others."""
        with self._lock:
            self._connection = connection
            self._reconnect_at_s = None
            self._perform(event())
            self._work()
        connection.wake.put(None)

    # -- gRPC's sending thread

    def _requests(self, connection: _Connection) -> Iterator[pb.AttachRequest]:
        """Each message when it is due."""
        while True:
            connection.wait(self._due_s)
            with self._lock:
                if self._connection is not connection:
                    return
                self._work()
            while connection.outgoing:
                yield connection.outgoing.popleft()

    # -- under the lock

    def _work(self) -> None:
        """Events that wait, in their order, and timers."""
        while self._events:
            self._perform(self._events.popleft()(self.core))
        if self._due_s is not None and self._due_s <= time.monotonic():
            self._due_s = None
            self._perform(self.core.due(time.monotonic()))

    def _perform(self, effects: Effects) -> None:
        self._connection.outgoing.extend(effects.send)
        for ticket in effects.ended:
            ticket.wake()
        if effects.wake_at_s is not None:
            self._due_s = effects.wake_at_s
        if effects.reconnect_in_s is not None:
            self._reconnect_at_s = time.monotonic() + effects.reconnect_in_s

    def _refuse_remaining(self) -> None:
        """The core is closed, so it refuses the remaining events. No caller waits for ever."""
        with self._lock:
            while self._events:
                self._perform(self._events.popleft()(self.core))
