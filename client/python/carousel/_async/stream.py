"""The Attach streams of an asyncio client: at most one to each server at a time, each with a task."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
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

from .pending import AsyncPending
from .replicas import AsyncReplicas
from .services import AsyncServices

T = TypeVar("T", bound=Ticket)
Outgoing = asyncio.Queue[pb.AttachRequest | None]


class AsyncAttachStream:
    """Shared by all tasks and sessions of a client, for its whole life.

    Attributes:
        core: decides what the messages mean.
        replicas: the servers that the streams lead to.
    """

    def __init__(self, core: AttachCore, replicas: AsyncReplicas) -> None:
        self.core = core
        self.replicas = replicas
        self.closed = False
        self._calls = replicas.calls
        self._loop = asyncio.get_running_loop()
        self._wires: dict[str, _Wire] = {}
        self._timer: asyncio.TimerHandle | None = None

    def ask(self, pending: AsyncPending[T]) -> AsyncPending[T]:
        """Hands an event that has an answer to the core.

        Raises:
            ClientClosedError, EventLoopError: this process or loop is not the stream's.
            CarouselError: the core refused it, and nothing was sent.
        """
        self._calls.home.check()
        self.perform(pending.tell(self.core))
        return pending

    def tell(self, event: Callable[[AttachCore], Effects]) -> None:
        """Hands an event without an answer to the core. In a forked child it does nothing."""
        if self._calls.home.left:
            return
        self.perform(event(self.core))

    async def close(self) -> None:
        """Ends the streams. Sessions stay open at the server. Callers that wait get ClientClosedError."""
        wires = list(self._wires.values())
        self.end()
        await asyncio.gather(*[wire.cancelled() for wire in wires])

    def end(self) -> None:
        """Closes the core and ends every stream, without a wait for its task."""
        self.closed = True
        self.perform(self.core.close(ClientClosedError("the client was closed")))
        if self._timer is not None:
            self._timer.cancel()
        for wire in self._wires.values():
            wire.leave()

    def perform(self, effects: Effects) -> None:
        """Does what the core says."""
        for address, messages in effects.send.items():
            for message in messages:
                self._wires[address].outgoing.put_nowait(message)
        for ticket in effects.ended:
            ticket.wake()
        for address, pause_s in effects.connect.items():
            if address not in self._wires:
                self._wires[address] = _Wire(self, address)
            self._wires[address].open_in(pause_s)
        for address in effects.leave:
            if address in self._wires:
                self._wires.pop(address).leave()
        if effects.wake_at_s is not None:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(effects.wake_at_s, self._due)

    def _due(self) -> None:
        self._timer = None
        self.perform(self.core.due(self._loop.time()))


class _Wire:
    """The streams to one server, one after the other. A task of its own feeds the core.

    Attributes:
        outgoing: of the stream that is open; ends with None.
    """

    def __init__(self, stream: AsyncAttachStream, address: str) -> None:
        self.outgoing: Outgoing = asyncio.Queue()
        self._stream = stream
        self._address = address
        self._replicas = stream.replicas
        self._loop = asyncio.get_running_loop()
        self._call: Any = None
        self._ending = asyncio.Event()
        # Set when the core wants a stream; the timer sets it after a pause.
        self._wanted = asyncio.Event()
        self._opening: asyncio.TimerHandle | None = None
        self._task = asyncio.create_task(self._run(), name="carousel-attach")

    def open_in(self, pause_s: float) -> None:
        """Opens the next stream after a pause."""
        self._opening = self._loop.call_later(pause_s, self._wanted.set)

    def leave(self) -> None:
        """Ends the stream for good. The core is not told."""
        self._ending.set()
        if self._opening is not None:
            self._opening.cancel()
        self._wanted.set()
        self.outgoing.put_nowait(None)
        if self._call is not None:
            self._call.cancel()

    async def cancelled(self) -> None:
        """Cancels the task and waits for its end."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        stream, core = self._stream, self._stream.core
        try:
            while True:
                await self._wanted.wait()
                if self._ending.is_set():
                    return
                self._wanted.clear()
                self.outgoing = asyncio.Queue()
                stream.perform(core.connected(self._address))
                services = self._replicas.take(self._address)
                try:
                    error = await self._talk(services, self.outgoing)
                finally:
                    self._replicas.give_back(self._address)
                if self._ending.is_set():
                    return
                self.outgoing.put_nowait(None)
                effects = core.broken(self._address, error, self._loop.time())
                stream.perform(effects)
                if effects.connect:
                    self._replicas.lost(self._address, error)
        finally:
            if not self._ending.is_set():  # the loop is ending
                stream.end()
            elif not stream.closed:
                await self._replicas.close_unused()

    async def _talk(self, services: AsyncServices, outgoing: Outgoing) -> CarouselError:
        """Opens a stream and reads it to its end. Returns why it ended."""
        answered = False
        call: Any = None
        try:
            metadata = self._replicas.calls.options.metadata
            call = self._call = services.inference.Attach(_requests(outgoing), metadata=metadata)
            async for response in call:
                answered = True
                self._replicas.calls.watch.answered(self._address)
                now_s = self._loop.time()
                self._stream.perform(self._stream.core.receive(self._address, response, now_s))
            return ConnectionLostError("the server ended the stream")
        except grpc.RpcError as failure:
            return error_of_call(failure, on_stream=answered)
        except CarouselError as violation:
            return violation
        except asyncio.CancelledError:
            # gRPC raises it too when `close` or the server cancels the call.
            if self._ending.is_set():
                return ClientClosedError("the client was closed")
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return ConnectionLostError("the stream was cancelled")
        except grpc.aio.UsageError as error:  # the channel was closed
            return ClientClosedError(str(error))
        except Exception as error:  # noqa: BLE001 - a defect of ours ends the sessions, not the waits
            return ServerFaultError(f"the client failed on a message: {error!r}", reason="INTERNAL")
        finally:
            if call is not None:
                with suppress(Exception):
                    call.cancel()


async def _requests(outgoing: Outgoing) -> AsyncIterator[pb.AttachRequest]:
    while (message := await outgoing.get()) is not None:
        yield message
