"""Futures that a caller may cancel at any moment."""

from __future__ import annotations

from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any

from .errors import CarouselError


def settle(reply: Future[Any], result: object) -> None:
    """Sets a result, or an error as the exception; a future that is settled or cancelled stays as it is."""
    with suppress(InvalidStateError):
        if isinstance(result, CarouselError):
            reply.set_exception(result)
        else:
            reply.set_result(result)
