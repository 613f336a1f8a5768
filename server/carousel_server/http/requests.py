"""Requests of HTTP: reading a body within limits, and turning it into a checked object."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import Receive

from carousel_server.core.errors import CarouselError
from carousel_server.wire.errors import invalid

JSON = "application/json"
RAW = "application/octet-stream"
TIMEOUT = "carousel-timeout-s"
"""Header with the caller's deadline, in seconds from now."""

B = TypeVar("B", bound=BaseModel)


@dataclass(slots=True)
class Incoming:
    """A whole request, as handlers get it. It is the CallContext of methods without a stream.

    Attributes:
        request: path, query and headers.
        body: its bytes.
    """

    request: Request
    body: bytes
    _ends_s: float | None = field(init=False)

    def __post_init__(self) -> None:
        timeout_s = timeout_of(self.request.headers)
        self._ends_s = None if timeout_s is None else time.monotonic() + timeout_s

    def time_remaining(self) -> float | None:
        """See `CallContext`."""
        return None if self._ends_s is None else max(0.0, self._ends_s - time.monotonic())

    async def write(self, message: Any) -> None:
        """Never called: the method has one reply."""
        raise AssertionError(f"{message!r} was written to a call with one reply")

    def path(self, name: str) -> str:
        """A part of the path."""
        return str(self.request.path_params[name])

    @property
    def is_raw(self) -> bool:
        """True if the body is rows as bytes, False if it is JSON.

        Raises:
            CarouselError: FIELD_INVALID if it is neither. So a page of another site cannot call by a form.
        """
        kind = self.request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in (JSON, RAW):
            raise invalid("content-type", f"must be {JSON} or {RAW}, but is {kind[:64]!r}")
        return kind == RAW

    def wants_raw(self, *, default: bool) -> bool:
        """True if the caller wants rows as bytes. `default` is for a caller that does not say."""
        accept = self.request.headers.get("accept", "").lower()
        if RAW in accept:
            return True
        return default and JSON not in accept

    def json(self, kind: type[B]) -> B:
        """The body as an object.

        Raises:
            CarouselError: MALFORMED_MESSAGE or FIELD_INVALID.
        """
        if self.is_raw:
            raise invalid("content-type", f"must be {JSON} here")
        return checked(kind.model_validate_json, self.body)

    def query(self, kind: type[B]) -> B:
        """The query as an object.

        Raises:
            CarouselError: FIELD_INVALID.
        """
        return checked(kind.model_validate, dict(self.request.query_params))


def checked(validate: Callable[[Any], B], value: Any) -> B:
    """What `validate` makes of a value.

    Raises:
        CarouselError: MALFORMED_MESSAGE if it is no JSON, FIELD_INVALID that names the first bad field.
    """
    try:
        return validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            raise CarouselError(
                "MALFORMED_MESSAGE", f"the body is no JSON: {first['msg']}"
            ) from None
        where = ".".join(map(str, first["loc"])) or "body"
        raise invalid(where[:128], first["msg"]) from None


async def read_body(receive: Receive, headers: Headers, most: int) -> bytes:
    """The body of a request.

    Raises:
        CarouselError: MESSAGE_TOO_LARGE.
        asyncio.CancelledError: the client has gone.
    """
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length) > most:
        raise too_large(int(length), most)
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise asyncio.CancelledError
        if part := message.get("body", b""):
            parts.append(part)
            size += len(part)
            if size > most:
                raise too_large(size, most)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def too_large(size: int, most: int) -> CarouselError:
    """MESSAGE_TOO_LARGE."""
    return CarouselError(
        "MESSAGE_TOO_LARGE",
        f"the body has {size} bytes or more; at most {most} are taken",
        metadata={"limit": most, "bytes": size},
    )


def timeout_of(headers: Headers) -> float | None:
    """The caller's time in seconds, None if it has set none.

    Raises:
        CarouselError: FIELD_INVALID.
    """
    given = headers.get(TIMEOUT)
    if given is None:
        return None
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not 0.0 < seconds < math.inf:
        raise invalid(TIMEOUT, "must be a number of seconds above 0")
    return seconds
