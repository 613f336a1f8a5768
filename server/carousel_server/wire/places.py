"""From names in requests to engines and sessions; errors say which name it was."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from carousel_server.core.errors import CarouselError
from carousel_server.core.ports import CatalogPort, EnginePort, Place
from carousel_server.core.types import SessionRef

from .fields import check_name, check_session_id
from .replies import reply_of

T = TypeVar("T")

_MOST_TRIES = 4


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


async def find_session(catalog: CatalogPort, tenant: str, session_id: str) -> Place:
    """Where a caller's session is; one that is in the store only is brought back.

    Raises:
        CarouselError: FIELD_INVALID, SESSION_NOT_FOUND, SESSION_EXPIRED, SESSION_CLOSED, or as
            `CatalogPort.resume`.
    """
    check_session_id(session_id)
    place = catalog.locate(tenant, session_id)
    if place is not None:
        return place
    try:
        return await reply_of(catalog.resume(tenant, session_id))
    except CarouselError as error:
        error.metadata.setdefault("session", session_id)
        raise


async def ask_session(
    catalog: CatalogPort,
    tenant: str,
    session_id: str,
    ask: Callable[[EnginePort, SessionRef], Awaitable[T]],
) -> T:
    """Asks a session's engine something; again if the session was parked just before.

    Raises:
        CarouselError: as `find_session` and `ask`.
    """
    for _ in range(_MOST_TRIES - 1):
        engine, ref = await find_session(catalog, tenant, session_id)
        try:
            return await ask(engine, ref)
        except CarouselError as error:
            if error.reason != "SESSION_PARKED":
                raise
    return await ask(*await find_session(catalog, tenant, session_id))
