"""From names in requests to engines and sessions; errors say which name it was."""

from __future__ import annotations

from carousel_server.core.errors import CarouselError
from carousel_server.core.ports import CatalogPort, EnginePort
from carousel_server.core.types import SessionRef

from .fields import check_name, check_session_id


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


def find_session(
    catalog: CatalogPort, tenant: str, session_id: str
) -> tuple[EnginePort, SessionRef]:
    """Where a caller's session is.

    Raises:
        CarouselError: FIELD_INVALID, SESSION_NOT_FOUND, SESSION_EXPIRED or SESSION_CLOSED.
    """
    check_session_id(session_id)
    try:
        return catalog.locate(tenant, session_id)
    except CarouselError as error:
        error.metadata.setdefault("session", session_id)
        raise
