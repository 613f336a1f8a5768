"""All engines of a server; implements `core.ports.CatalogPort`."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from carousel_server.core.errors import CarouselError
from carousel_server.core.ports import EnginePort
from carousel_server.core.types import SessionRef
from carousel_server.sessions import Directory


class Catalog:
    """Engines by model name, and the way from a session's id to its engine. Any thread."""

    def __init__(self, directory: Directory, engines: Sequence[EnginePort]) -> None:
        self._directory = directory
        self._engines = {e.model.name: e for e in sorted(engines, key=lambda e: e.model.name)}

    def engines(self) -> Sequence[EnginePort]:
        """Ordered by model name."""
        return list(self._engines.values())

    def engine(self, model: str) -> EnginePort:
        """Raises CarouselError MODEL_NOT_FOUND."""
        found = self._engines.get(model)
        if found is None:
            close = difflib.get_close_matches(model, self._engines, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise CarouselError(
                "MODEL_NOT_FOUND", f"no model {model!r} is served here{hint}", field="model"
            )
        return found

    def locate(self, tenant: str, session_id: str) -> tuple[EnginePort, SessionRef]:
        """Raises CarouselError SESSION_NOT_FOUND, SESSION_EXPIRED or SESSION_CLOSED."""
        name, ref = self._directory.locate(tenant, session_id)
        return self._engines[name], ref
