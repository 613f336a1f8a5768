"""Bytes to messages. grpc hands requests over as bytes, so that a bad one gets an error with a name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol, TypeAlias, TypeVar, runtime_checkable

from google.protobuf.message import DecodeError, Message

from carousel_server.core.errors import CarouselError

FRAME_SLACK_BYTES = 1 << 20
"""How far the size limit of a transport lies above ours, so that ours, which has a name, is met first."""

M = TypeVar("M", bound=Message)
T = TypeVar("T")

Take: TypeAlias = Callable[[bytes], Awaitable[bool] | None]
"""Takes one request. It returns None, or what is to be awaited before the next: False if none is wanted."""


class Gathered(Protocol):
    """A call of which requests came together with those of other calls.

    Attributes:
        owner: what its handler has named.
        gather: where its next requests go; None while they go to `take`, one after the other.
    """

    owner: Any
    gather: Gather | None

    def offer(self, data: bytes) -> None:
        """Gives one request to `take`, behind those that wait for it."""

    def fail(self, error: Exception) -> None:
        """Lets the handler raise a defect that its requests have met."""


class Gather:
    """Requests of all calls of a door that came in one poll of the transport.

    `take` gets bytes, and for each request its call, and where it begins and ends there. What it does not
    want, it offers to the call, and so all that follows while the call has no `gather`.
    """

    def __init__(self, take: Callable[[bytes, list[tuple[Gathered, int, int]]], None]) -> None:
        self._take = take
        self.waiting: list[tuple[Gathered, int, int]] = []

    def flush(self, data: bytes) -> None:
        """Gives what waits to the door."""
        waiting, self.waiting = self.waiting, []
        self._take(data, waiting)


@runtime_checkable
class Feeding(Protocol):
    """Requests that come without a task of their own being woken for each."""

    async def feed(self, take: Take, gather: Gather | None, owner: Any) -> None:
        """As `for_each`."""


@runtime_checkable
class Posting(Protocol):
    """A context that can send a reply without being awaited."""

    def post(self, message: bytes) -> bool:
        """Sends a reply, or returns False: `write` has to be awaited, since much is unsent."""


async def for_each(
    requests: AsyncIterator[bytes], take: Take, gather: Gather | None = None, owner: Any = None
) -> None:
    """Gives the requests to `take`, until the client half-closes or `take` wants no more.

    Args:
        requests: of one call.
        take: takes one of them.
        gather: may take them in its place, together with those of other calls.
        owner: whose requests they are, for `gather`.

    Raises:
        Exception: what `take` raises.
    """
    if isinstance(requests, Feeding):
        await requests.feed(take, gather, owner)
        return
    async for data in requests:
        if (pause := take(data)) is not None and not await pause:
            return


def post_of(context: Any) -> Callable[[bytes], bool]:
    """What sends a reply at once, where the transport can."""
    return context.post if isinstance(context, Posting) else _cannot


def _cannot(_message: bytes) -> bool:
    return False


def parse(kind: type[M], data: bytes, max_message_bytes: int) -> M:
    """The message that `data` holds.

    Raises:
        CarouselError: MESSAGE_TOO_LARGE or MALFORMED_MESSAGE.
    """
    check_request_bytes(len(data), max_message_bytes)
    try:
        return kind.FromString(data)
    except DecodeError:
        raise CarouselError("MALFORMED_MESSAGE", f"the bytes are no {kind.__name__}") from None


def check_request_bytes(request_bytes: int, max_message_bytes: int) -> None:
    """The size of a request.

    Raises:
        CarouselError: MESSAGE_TOO_LARGE.
    """
    if request_bytes > max_message_bytes:
        raise too_large(request_bytes, max_message_bytes)


def too_large(size: int, most: int) -> CarouselError:
    """What a message of `size` bytes is refused with."""
    return CarouselError(
        "MESSAGE_TOO_LARGE",
        f"the message has {size} bytes; at most {most} are taken",
        metadata={"limit": most, "bytes": size},
    )


async def first_message(requests: AsyncIterator[T], timeout_s: float) -> T | None:
    """The first message of a stream; None if the client ends the stream without one.

    Raises:
        CarouselError: MESSAGE_TIMEOUT if it does not come in time.
    """
    try:
        async with asyncio.timeout(timeout_s):
            return await anext(requests, None)
    except TimeoutError:
        raise message_timeout(timeout_s) from None


def message_timeout(timeout_s: float) -> CarouselError:
    """What is answered to a call whose message does not arrive whole within message_timeout_s."""
    return CarouselError(
        "MESSAGE_TIMEOUT",
        f"the call's first message did not arrive within {timeout_s:g} s (message_timeout_s)",
        metadata={"limit": timeout_s},
        retry_after_s=1.0,
    )
