"""Bytes to messages. grpc hands requests over as bytes, so that a bad one gets an error with a name."""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from carousel_server.core.errors import CarouselError

M = TypeVar("M", bound=Message)


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
