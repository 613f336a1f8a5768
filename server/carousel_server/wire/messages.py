"""Bytes to messages. grpc hands requests over as bytes, so that a bad one gets an error with a name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from carousel_server.core.errors import CarouselError

M = TypeVar("M", bound=Message)
T = TypeVar("T")


def parse(kind: type[M], data: bytes, max_message_bytes: int) -> M:
    """The message that `data` holds.

    Raises:
        CarouselError: MESSAGE_TOO_LARGE or MALFORMED_MESSAGE.
    """
    if len(data) > max_message_bytes:
        raise CarouselError(
            "MESSAGE_TOO_LARGE",
            f"the message has {len(data)} bytes; at most {max_message_bytes} are taken",
            metadata={"limit": max_message_bytes, "bytes": len(data)},
        )
    try:
        return kind.FromString(data)
    except DecodeError:
        raise CarouselError("MALFORMED_MESSAGE", f"the bytes are no {kind.__name__}") from None


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
