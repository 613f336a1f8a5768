"""The Attach stream of an asyncio client: two tasks with the core between them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

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

T = TypeVar("T", bound=Ticket)


class AsyncAttachStream:
    """One stream, shared by all tasks and sessions of a client. Never opened again once lost."""

    def __init__(self, stub: Any, metadata: tuple[tuple[str, str], ...]) -> None:
        self._core = AttachCore()
        self._outgoing: asyncio.Queue[pb.AttachRequest | None] = asyncio.Queue()
        self._answered = False
        self.lost = False
        self._perform(self._core.hello())
        self._call = stub.Attach(self._requests(), metadata=metadata)
        self._reader = asyncio.create_task(self._read(), name="carousel-attach")

    def ask(
        self, event: Callable[[AttachCore], tuple[T | None, Effects]]
    ) -> tuple[T, asyncio.Event] | None:
        """Tells the core of an event; the ticket and what is set at its end. None: nothing to do."""
        done = asyncio.Event()
        ticket, effects = event(self._core)
        if ticket is not None:
            ticket.wake = done.set
        self._perform(effects)
        return None if ticket is None else (ticket, done)

    def tell(self, event: Callable[[AttachCore], Effects]) -> None:
        """Tells the core of an event that has no answer."""
        self._perform(event(self._core))

    @staticmethod
    async def wait_done(asked: tuple[Ticket, asyncio.Event], timeout_s: float) -> None:
        """Waits for the end of a ticket, good or bad.

        Raises:
            ReplyTimeoutError: it has not ended in time; what it was for may still happen.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await asked[1].wait()
        except TimeoutError:
            raise ReplyTimeoutError(f"no answer within {timeout_s:.3g} s") from None

    @classmethod
    async def wait(cls, asked: tuple[Ticket, asyncio.Event], timeout_s: float) -> None:
        """Waits for the end of a ticket and raises its error. Raises as `wait_done`."""
        await cls.wait_done(asked, timeout_s)
        asked[0].check()

    async def close(self) -> None:
        """Ends the stream. Sessions live on at the server; whoever waits gets ClientClosedError."""
        self._end(ClientClosedError("the client was closed"))
        await asyncio.gather(self._reader, return_exceptions=True)

    def _perform(self, effects: Effects) -> None:
        for message in effects.send:
            self._outgoing.put_nowait(message)
        for ticket in effects.ended:
            ticket.wake()

    async def _requests(self) -> AsyncIterator[pb.AttachRequest]:
        while (message := await self._outgoing.get()) is not None:
            yield message

    async def _read(self) -> None:
        error: CarouselError = ConnectionLostError("the stream ended for a reason unknown")
        try:
            async for response in self._call:
                self._answered = True
                self._perform(self._core.receive(response))
            error = ConnectionLostError("the server ended the stream")
        except grpc.RpcError as failure:
            error = error_of_call(failure, on_stream=self._answered)
        except CarouselError as violation:
            error = violation
        except asyncio.CancelledError:
            # gRPC says so too when `close` cancels the call; only then is it no news.
            error = ClientClosedError("the client was closed")
            if not self.lost:
                raise
        finally:
            self._end(error)

    def _end(self, error: CarouselError) -> None:
        self.lost = True
        self._perform(self._core.lost(error))
        self._call.cancel()
        self._outgoing.put_nowait(None)
