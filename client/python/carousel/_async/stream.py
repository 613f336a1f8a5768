"""The Attach streams of an asyncio client, one after the other. One task feeds the core."""

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
from .services import AsyncServices

T = TypeVar("T", bound=Ticket)
Outgoing = asyncio.Queue[pb.AttachRequest | None]


class AsyncAttachStream:
    """Shared by all tasks and sessions of a client, for its whole life.

    Attributes:
        core: decides what the messages mean.
        services: the server that the streams lead to.
    """

    def __init__(self, core: AttachCore, services: AsyncServices) -> None:
        self.core = core
        self.services = services
        self._calls = services.calls
        self._stub = services.inference
        self._loop = asyncio.get_running_loop()
        self._outgoing: Outgoing = asyncio.Queue()
        self._call: Any = None
        self._timer: asyncio.TimerHandle | None = None
        # Set when the core wants a stream; the timer sets it after a pause.
        self._wanted = asyncio.Event()
        self._opening: asyncio.TimerHandle | None = None
        self._closed = False
        self._begin()
        self._reader = asyncio.create_task(self._run(), name="carousel-attach")

    def ask(self, pending: AsyncPending[T]) -> AsyncPending[T]:
        """Hands an event that has an answer to the core.

        Raises:
            ClientClosedError, EventLoopError: this process or loop is not the stream's.
            CarouselError: the core refused it, and nothing was sent.
        """
        self._calls.home.check()
        self._perform(pending.tell(self.core))
        return pending

    def tell(self, event: Callable[[AttachCore], Effects]) -> None:
        """Hands an event without an answer to the core. In a forked child it does nothing."""
        if self._calls.home.left:
            return
        self._perform(event(self.core))

    async def close(self) -> None:
        """Ends the stream. Sessions stay open at the server. Callers that wait get ClientClosedError."""
        self._end()
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)

    def _end(self) -> None:
        self._closed = True
        self._perform(self.core.close(ClientClosedError("the client was closed")))
        for timer in (self._timer, self._opening):
            if timer is not None:
                timer.cancel()
        self._outgoing.put_nowait(None)
        if self._call is not None:
            self._call.cancel()

    def _perform(self, effects: Effects) -> None:
        for message in effects.send:
            self._outgoing.put_nowait(message)
        for ticket in effects.ended:
            ticket.wake()
        if effects.wake_at_s is not None:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(effects.wake_at_s, self._due)
        if effects.reconnect_in_s is not None:
            self._opening = self._loop.call_later(effects.reconnect_in_s, self._wanted.set)

    def _due(self) -> None:
        self._timer = None
        self._perform(self.core.due(self._loop.time()))

    # -- the task

    def _begin(self) -> None:
        """A new stream, which takes the place of the one before."""
        self._wanted.clear()
        self._outgoing = asyncio.Queue()
        self._perform(self.core.connected())

    async def _run(self) -> None:
        try:
            while True:
                error = await self._talk(self._outgoing)
                if self._closed:
                    return
                self._outgoing.put_nowait(None)
                effects = self.core.broken(error, self._loop.time())
                self._perform(effects)
                if effects.reconnect_in_s is not None:
                    self._calls.watch.looking(error)
                await self._wanted.wait()
                self._begin()
        finally:
            if not self._closed:  # the loop is ending
                self._end()

    async def _talk(self, outgoing: Outgoing) -> CarouselError:
        """Opens a stream and reads it to its end. Returns why it ended."""
        answered = False
        call: Any = None
        try:
            call = self._call = self._stub.Attach(
                _requests(outgoing), metadata=self._calls.options.metadata
            )
            async for response in call:
                answered = True
                self._calls.watch.answered()
                self._perform(self.core.receive(response, self._loop.time()))
            return ConnectionLostError("the server ended the stream")
        except grpc.RpcError as failure:
            return error_of_call(failure, on_stream=answered)
        except CarouselError as violation:
            return violation
        except asyncio.CancelledError:
            # gRPC raises it too when `close` or the server cancels the call.
            if self._closed:
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
