"""Watches who has to leave a row for a session that comes from the store."""

from __future__ import annotations

from collections.abc import Callable

from carousel_server.engine import Engine
from carousel_server.residency import room

_STAY_S = room.STAY_S
"""As it is, whatever a mutant makes of it later."""


def watch_evictions(engine: Engine, fail: Callable[[str], None]) -> None:
    """Reports a session that another one pushes off its row before its first step there."""
    room, table = engine._residency._room, engine._rows.table
    claim, park = room.claim, room._park
    fetching = False

    def claim_watched(tenant: str, now: float, *, newcomers: bool = True) -> None:
        nonlocal fetching
        fetching = not newcomers
        try:
            claim(tenant, now, newcomers=newcomers)
        finally:
            fetching = False

    def park_watched(row: int, now: float) -> None:
        fresh = table.applied[row] == table.begun_applied[row]
        if fetching and fresh and now - table.begun_s[row] < _STAY_S:
            fail(f"parking: {table.ids[row]} was pushed out before its first step")
        park(row, now)

    room.claim, room._park = claim_watched, park_watched  # type: ignore[method-assign]
