"""The Attach streams of a client: at most one to each server at a time.

Each stream has two threads: gRPC's sending thread, and a reader that hands the server's messages to the
core. One thread of the client opens the streams and does what callers ask for. Where there is one server,
its sending thread does the latter: it is one switch of threads less. Where there are several, it does not,
because a server that reads nothing would hold up the others.

A caller's own thread only adds to a deque, puts a token into a queue and waits. So an exception that a
signal raises there, as Ctrl-C does at any line of the main thread, leaves no core half changed and no
message half sent.
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
from .replicas import Replicas

JOIN_TIMEOUT_S = 60.0
"""For a reader whose call is cancelled already: gRPC ends it at once, if the machine lets it."""

T = TypeVar("T", bound=Ticket)
Event = Callable[[AttachCore], Effects]


class _Place:
    """Where a thread waits for work.

    Attributes:
        wake: a token for each event, and for each time that messages or timers change.
    """

    def __init__(self) -> None:
        self.wake: queue.SimpleQueue[None] = queue.SimpleQueue()

    def wait(self, until_s: float | None) -> None:
        """For a token, or the instant."""
        if until_s is None:
            self.wake.get()
            return
        with suppress(queue.Empty):
            self.wake.get(timeout=max(until_s - time.monotonic(), 0.0))


class _Connection(_Place):
    """One stream. Each has queues of its own, so that its threads cannot take what is meant for the next one.

    Attributes:
        address: of the server.
        outgoing: messages to be sent.
        call: gRPC's, once there is one.
        reader: its thread.
    """

    def __init__(self, address: str, read: Callable[[_Connection], None]) -> None:
        super().__init__()
        self.address = address
        self.outgoing: deque[pb.AttachRequest] = deque()
        self.call: Any = None
        self.reader = threading.Thread(
            target=read, args=(self,), name="carousel-attach-reader", daemon=True
        )

    def cancel(self) -> None:
        """Ends the call, if there is one."""
        with suppress(ValueError):  # the channel is closed already
            if self.call is not None:
                self.call.cancel()


class AttachStream:
    """Shared by all threads and sessions of a client, for its whole life.

    Attributes:
        core: touched by this object's threads only, under its lock; `statistics` may be read.
        replicas: the servers that the streams lead to.
    """

    def __init__(self, core: AttachCore, replicas: Replicas) -> None:
        self.core = core
        self.replicas = replicas
        self._calls = replicas.calls
        # Guards the core, the order of events, and which connections there are.
        self._lock = threading.RLock()
        self._events: deque[Event] = deque()
        self._connections: dict[str, _Connection] = {}
        # When streams are to be opened, by address.
        self._openings: dict[str, float] = {}
        self._due_s: float | None = None
        self._closed = False
        self._ended = False
        # Where the client's thread waits, and where the thread waits that does the events now.
        self._own = _Place()
        self._worker: _Place = self._own
        self._thread = threading.Thread(target=self._run, name="carousel-attach", daemon=True)
        self._thread.start()

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
        # Looked up after the event is there: a worker that begins later looks for events itself.
        self._worker.wake.put(None)
        if self._ended:
            self._refuse_remaining()

    def close(self) -> None:
        """Ends the streams. Sessions stay open at the server. Callers that wait get ClientClosedError."""
        self._closed = True
        connections = list(self._connections.values())
        for connection in connections:
            connection.cancel()
        self._own.wake.put(None)
        own = [self._thread, *[connection.reader for connection in connections]]
        if (
            threading.current_thread() not in own
        ):  # else a finaliser calls, and would wait for itself
            self._thread.join(JOIN_TIMEOUT_S)

    # -- the client's thread

    def _run(self) -> None:
        try:
            while not self._closed:
                with self._lock:
                    self._open_those_due()
                    if self._worker is self._own:
                        self._work(self._own)
                    known = list(self._openings.values())
                    if self._worker is self._own and self._due_s is not None:
                        known.append(self._due_s)
                self._own.wait(min(known, default=None))
        finally:
            with self._lock:
                connections = list(self._connections.values())
                self._connections.clear()
                self._worker = self._own
                self._perform(self.core.close(ClientClosedError("the client was closed")), None)
                self._ended = True
            self._refuse_remaining()
            for connection in connections:
                connection.cancel()
                connection.wake.put(None)
            for connection in connections:
                if connection.reader is not threading.current_thread():
                    connection.reader.join(JOIN_TIMEOUT_S)

    def _open_those_due(self) -> None:
        now_s = time.monotonic()
        for address in [one for one, at_s in self._openings.items() if at_s <= now_s]:
            del self._openings[address]
            connection = self._connections[address] = _Connection(address, self._read)
            if not self.replicas.addresses.several:
                self._worker = connection
            connection.reader.start()

    # -- the reader thread of a connection

    def _read(self, connection: _Connection) -> None:
        """One stream, from its first message to its end."""
        with self._lock:
            if self._is_present(connection):
                self._perform(self.core.connected(connection.address), None)
                self._work_at(connection)
        error = self._talk(connection)
        with self._lock:
            was_present = self._is_present(connection)
            if was_present:
                del self._connections[connection.address]
                self._worker = self._own if self._worker is connection else self._worker
                effects = self.core.broken(connection.address, error, time.monotonic())
                self._perform(effects, None)
        connection.wake.put(None)  # its sending thread ends
        self._own.wake.put(None)
        if not was_present:
            self.replicas.close_unused()
        elif effects.connect:
            self.replicas.lost(connection.address, error)

    def _talk(self, connection: _Connection) -> CarouselError:
        """Opens a stream and reads it to its end. Returns why it ended."""
        answered = False
        address, metadata = connection.address, self._calls.options.metadata
        taken = False
        try:
            stub = self.replicas.take(address).inference
            taken = True
            connection.call = stub.Attach(self._requests(connection), metadata=metadata)
            if self._closed or not self._is_present(connection):
                connection.cancel()
            for response in connection.call:
                answered = True
                self._calls.watch.answered(address)
                with self._lock:
                    if self._is_present(connection):
                        now_s = time.monotonic()
                        self._perform(self.core.receive(address, response, now_s), None)
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
            if taken:
                self.replicas.give_back(address)

    def _is_present(self, connection: _Connection) -> bool:
        return self._connections.get(connection.address) is connection

    # -- gRPC's sending thread of a connection

    def _requests(self, connection: _Connection) -> Iterator[pb.AttachRequest]:
        """Each message when it is due."""
        while True:
            connection.wait(self._due_s if self._worker is connection else None)
            with self._lock:
                if not self._is_present(connection):
                    return
                self._work_at(connection)
            while connection.outgoing:
                yield connection.outgoing.popleft()

    # -- under the lock

    def _work_at(self, place: _Place) -> None:
        if self._worker is place:
            self._work(place)

    def _work(self, place: _Place) -> None:
        """Events that wait, in their order, and timers. `place` is the thread's own."""
        while self._events:
            self._perform(self._events.popleft()(self.core), place)
        if self._due_s is not None and self._due_s <= time.monotonic():
            self._due_s = None
            self._perform(self.core.due(time.monotonic()), place)

    def _perform(self, effects: Effects, place: _Place | None) -> None:
        """Does what the core says. Wakes the threads that are concerned, but not the one at `place`."""
        for address, messages in effects.send.items():
            connection = self._connections[address]
            connection.outgoing.extend(messages)
            if connection is not place:
                connection.wake.put(None)
        for ticket in effects.ended:
            ticket.wake()
        for address, pause_s in effects.connect.items():
            self._openings[address] = time.monotonic() + pause_s
        for address in effects.leave:
            left = self._connections.pop(address, None)
            if left is not None:
                left.cancel()
                left.wake.put(None)
        if effects.connect and place is not self._own:
            self._own.wake.put(None)
        if effects.wake_at_s is not None and effects.wake_at_s != self._due_s:
            self._due_s = effects.wake_at_s
            if self._worker is not place:
                self._worker.wake.put(None)

    def _refuse_remaining(self) -> None:
        """The core is closed, so it refuses the remaining events. No caller waits for ever."""
        with self._lock:
            while self._events:
                self._perform(self._events.popleft()(self.core), None)
