"""Waiting for engines: their futures resolve on their own threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

from carousel_server.core.errors import CarouselError
from carousel_server.core.futures import done, then
from carousel_server.core.ports import Close, EnginePort, Opened, Place, ask
from carousel_server.core.types import SessionView

from .loop_calls import calls_of

T = TypeVar("T")


async def reply_of(future: Future[T]) -> T:
    """The engine's answer. Giving up waiting leaves the future alone: the command will run anyway."""
    answer = asyncio.wrap_future(future)
    answer.add_done_callback(_seen)
    return await asyncio.shield(answer)


def _seen(answer: asyncio.Future[Any]) -> None:
    """An error that comes after the caller has left has no reader, and is no defect to be logged."""
    if not answer.cancelled():
        answer.exception()


def placed(engine: EnginePort, opened: Opened) -> Future[tuple[Place, SessionView]]:
    """A session that is being opened on an engine, and where it is there."""
    return then(opened, lambda session: done(((engine, session[0]), session[1])))


async def opening(
    reply: Future[tuple[Place, SessionView]], *, keep_if_cancelled: bool
) -> tuple[Place, SessionView]:
    """Waits for a session that is being opened.

    With `keep_if_cancelled` False, a session whose caller has gone before it learned the id is closed
    again: nobody could ever name it, so it would only hold a slot until its idle_ttl.
    """
    try:
        return await reply_of(reply)
    except asyncio.CancelledError:
        if not keep_if_cancelled:
            then(reply, lambda opened: ask(opened[0][0], Close(opened[0][1])))
        raise


def error_of(reply: Future[Any]) -> CarouselError | None:
    """Why an engine refused, if it did."""
    error = reply.exception()
    assert error is None or isinstance(error, CarouselError), f"an engine answered {error!r}"
    return error


def call_on(
    loop: asyncio.AbstractEventLoop, future: Future[Any], callback: Callable[[Future[Any]], None]
) -> None:
    """Runs `callback(future)` on the loop once the engine has answered; not after the loop's end."""
    future.add_done_callback(partial(calls_of(loop).put, callback))
