"""What the two clients do each in their own way, with the same names in `_sync`."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from carousel._home import HomeLoop
from carousel.types import Token

if TYPE_CHECKING:
    from .calls import AsyncCalls

P = ParamSpec("P")
T = TypeVar("T")

Tokens = AsyncGenerator[Token, None]

sleep = asyncio.sleep


async def away_from_the_loop(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Calls a function that may take a while."""
    return await asyncio.to_thread(function, *args, **kwargs)


async def reply_of(call_of: Callable[[], Any], _home: HomeLoop) -> Any:
    """The reply of a unary call of gRPC. Cancels the call if the task is cancelled."""
    call = call_of()
    try:
        return await call
    finally:
        call.cancel()  # gRPC no longer does so by itself for a call that was given up


def cancel_when_dropped(
    owner: object, _tokens: Tokens, running: list[Any], calls: AsyncCalls
) -> None:
    """Cancels the running calls once `owner` is no longer referred to.

    The event loop finishes the generator only later, if at all. The server should know now.
    """
    weakref.finalize(owner, _cancel, running, calls).atexit = False


def _cancel(running: list[Any], calls: AsyncCalls) -> None:
    for call in running:
        calls.cancel(call)
