"""From names in requests to engines and sessions; errors say which name it was."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import TypeVar

from carousel_server.core.catalog import CatalogPort
from carousel_server.core.errors import CarouselError
from carousel_server.core.futures import done, failed, passes, then, tried
from carousel_server.core.ports import Close, EnginePort, Place, ask
from carousel_server.core.store import SessionKey
from carousel_server.core.types import SessionView

from .fields import check_name, check_session_id

T = TypeVar("T")

_CANNOT_RUN = ("FINGERPRINT_MISMATCH", "MODEL_NOT_FOUND", "SNAPSHOT_DAMAGED")
"""Why no engine takes a session from the store. It can be closed all the same."""

_SOON = ("DRAINING", "QUEUE_FULL", "SESSION_HELD")
"""Why a session cannot be closed now, but soon, here or at another server."""


def find_engine(catalog: CatalogPort, model: str, field: str = "model") -> EnginePort:
    """The engine of a model.

    Raises:
        CarouselError: FIELD_INVALID or MODEL_NOT_FOUND.
    """
    check_name(model, field)
    try:
        return catalog.engine(model)
    except CarouselError as error:
        error.metadata.setdefault("model", model)
        raise


def find_session(catalog: CatalogPort, key: SessionKey) -> Future[Place]:
    """Where a caller's session is; one that is in the store only is brought back.

    Raises:
        CarouselError: FIELD_INVALID. The future fails as `CatalogPort.resume`.
    """
    check_session_id(key.id)

    def named(error: BaseException) -> Future[Place]:
        if isinstance(error, CarouselError):
            error.metadata.setdefault("session", key.id)
        return failed(error)

    return then(catalog.resume(*key), done, named)


def ask_session(
    catalog: CatalogPort, key: SessionKey, question: Callable[[Place], Future[T]]
) -> Future[T]:
    """Finds a session and asks its engine; again if the session left its row in between.

    Raises:
        CarouselError: FIELD_INVALID. The future fails as `find_session` and `question`.
    """
    check_session_id(key.id)
    return tried(
        lambda: then(find_session(catalog, key), question), partial(passes, harmless=False)
    )


def close_session(
    catalog: CatalogPort, key: SessionKey, place: Place | None = None
) -> Future[SessionView]:
    """Closes a session at `place` or, if it is not there, wherever it is.

    One that no engine can run is closed in the store. The future fails as `find_session`.
    """
    known = [] if place is None else [place]
    ended_here: list[BaseException] = []

    def attempt() -> Future[SessionView]:
        found = done(known.pop()) if known else find_session(catalog, key)
        return then(found, lambda at: then(ask(at[0], Close(at[1])), done, ended))

    def ended(error: BaseException) -> Future[SessionView]:
        # Another close may have ended it on its row just now, and the store may not have heard of that.
        if isinstance(error, CarouselError) and error.reason == "SESSION_CLOSED":
            ended_here.append(error)
        return failed(error)

    def again(error: BaseException) -> bool:
        return error in ended_here or passes(error, harmless=False)

    def discard(error: BaseException) -> Future[SessionView]:
        if isinstance(error, CarouselError) and error.reason in _CANNOT_RUN:
            return catalog.discard(*key)
        return failed(error)

    return then(tried(attempt, again), done, discard)


def close_for_good(catalog: CatalogPort, key: SessionKey, place: Place | None) -> Future[None]:
    """Closes a session as `close_session`. Done once nothing can bring it back before its TTL ends it.

    The future fails only with what passes soon: DRAINING, QUEUE_FULL and SESSION_HELD.
    """
    return then(close_session(catalog, key, place), lambda _: done(None), _up_to_its_ttl)


def _up_to_its_ttl(error: BaseException) -> Future[None]:
    soon = isinstance(error, CarouselError) and error.reason in _SOON
    return failed(error) if soon else done(None)
