"""Futures that follow one another, and the one rule for what is tried again.

Engines and the store answer on threads of their own. A chain of questions runs on those threads: each
step is the callback of the one before it, so no thread waits.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from functools import partial
from typing import Any, Generic, TypeVar

from .errors import CarouselError, refusal_of

T = TypeVar("T")
U = TypeVar("U")

MOST_TRIES = 4
"""How often a session is looked for, if it leaves each time before it is asked."""

_LEFT_BEFORE = "SESSION_PARKED"
"""The session has left its row for the store since it was found. Nothing of the command has run."""

_LET_GO = "LEASE_LOST"
"""The session's lease was taken or is too old for this caller. A part of the command may have run."""


def passes(error: BaseException, *, harmless: bool = True) -> bool:
    """True if the session may be found again, so that the command meets it on another row.

    `harmless`: the command may run twice, as a Bind or a Get may.
    """
    reason = error.reason if isinstance(error, CarouselError) else ""
    return reason == _LEFT_BEFORE or (harmless and reason == _LET_GO)


class WithReply(Generic[T]):
    """A command or request whose caller waits for its future, `reply`."""

    __slots__ = ()
    reply: Future[T]

    def refuse(self, error: CarouselError) -> None:
        """Fails the future, unless it is settled or cancelled."""
        settle(self.reply, error)


class WithoutReply:
    """A command whose outcome has no reader. A time limit does later what it asks for."""

    __slots__ = ()

    def refuse(self, error: CarouselError) -> None:
        """Does nothing: no one waits."""


class Internal:
    """A command of the server itself. It needs no room, and is no client's."""

    __slots__ = ()


def done(value: T) -> Future[T]:
    """A future that has its value."""
    future: Future[T] = Future()
    future.set_result(value)
    return future


def failed(error: BaseException) -> Future[Any]:
    """A future that has failed."""
    future: Future[Any] = Future()
    future.set_exception(error)
    return future


def settle(reply: Future[Any], result: object) -> None:
    """Sets a result, or an error as the exception; a future that is settled or cancelled stays as it is."""
    with suppress(InvalidStateError):
        if isinstance(result, BaseException):
            reply.set_exception(result)
        else:
            reply.set_result(result)


def follow(future: Future[T], reply: Future[T]) -> None:
    """Settles a future as another one was settled."""
    settle(future, reply.exception() or reply.result())


def then(
    first: Future[T],
    step: Callable[[T], Future[U]],
    otherwise: Callable[[BaseException], Future[U]] = failed,
) -> Future[U]:
    """What `step` gives for the value of `first`, or `otherwise` for its error.

    What either of them raises fails the result.
    """
    result: Future[U] = Future()

    def go_on(reply: Future[T]) -> None:
        try:
            error = reply.exception()
            following = step(reply.result()) if error is None else otherwise(error)
        except Exception as raised:  # noqa: BLE001 - a caller must learn of a defect too
            following = failed(refusal_of(raised))
        following.add_done_callback(partial(follow, result))

    first.add_done_callback(go_on)
    return result


def tried(attempt: Callable[[], Future[T]], again: Callable[[BaseException], bool]) -> Future[T]:
    """An attempt that is repeated while its error says `again`, MOST_TRIES times in all."""

    def after(left: int, error: BaseException) -> Future[T]:
        return try_it(left) if left and again(error) else failed(error)

    def try_it(left: int) -> Future[T]:
        return then(done(None), lambda _: then(attempt(), done, partial(after, left - 1)))

    return try_it(MOST_TRIES)
