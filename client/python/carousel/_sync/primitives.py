"""What the two clients do each in their own way, with the same names in `_async`."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Generator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from carousel._home import HomeProcess
from carousel.types import Token

if TYPE_CHECKING:
    from .calls import Calls

P = ParamSpec("P")
T = TypeVar("T")

Tokens = Generator[Token, None, None]

sleep = time.sleep


def away_from_the_loop(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Calls a function that may take a while."""
    return function(*args, **kwargs)


def reply_of(call_of: Callable[[], Any], home: HomeProcess) -> Any:
    """The reply of a unary call of gRPC. Raises ClientClosedError if another thread closes the client."""
    try:
        return call_of()
    except ValueError:  # gRPC raises it for a channel that was just closed
        home.check_open()
        raise


def cancel_when_dropped(owner: object, tokens: Tokens, _running: list[Any], _calls: Calls) -> None:
    """Closes the generator, which cancels its call, once `owner` is no longer referred to.

    Also at the end of the program, and then before the interpreter stops the threads of gRPC: a cancel
    after that may wait for ever for a lock that such a thread holds.
    """
    weakref.finalize(owner, _close, tokens)


def _close(tokens: Tokens) -> None:
    with suppress(ValueError):  # a thread is just reading it; that ends with the program
        tokens.close()
