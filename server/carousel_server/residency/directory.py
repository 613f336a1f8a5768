"""Which session is where: the one map from a session's id to its engine and row."""

from __future__ import annotations

import threading
from collections import OrderedDict, defaultdict

from carousel_server.core.errors import CarouselError
from carousel_server.core.types import SessionRef

_REMEMBERED = 65_536

_ENGINE_BITS = 16
_ROW_BITS = 28
"""Enough for more engines and slots than fit into a machine; a generation has no limit."""


class Directory:
    """Session ids of all engines, by tenant. Safe to use from any thread.

    Ended sessions are remembered for a while (the last 65,536), so that a client that comes back late is
    told that its session expired, not that it never was.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # tenant → id → place, for open sessions. There may be millions of these: a place is one integer,
        # which takes a third of an object's memory.
        self._open: defaultdict[str, dict[str, int]] = defaultdict(dict)
        # Names of engines, and the number of each.
        self._engines: list[str] = []
        self._numbers: dict[str, int] = {}
        # (tenant, id) → reason from the registry, oldest first, for ended ones.
        self._ended: OrderedDict[tuple[str, str], str] = OrderedDict()

    def claim(self, tenant: str, session_id: str, engine: str) -> SessionRef | None:
        """Reserves an id for an engine that is about to open it.

        Returns the session's ref if that engine has it open already, else None.

        Raises:
            CarouselError: SESSION_EXISTS if another engine has it.
        """
        with self._lock:
            if engine not in self._numbers:
                self._numbers[engine] = len(self._engines)
                self._engines.append(engine)
            place = self._open[tenant].get(session_id)
            if place is None:
                self._open[tenant][session_id] = _placed(self._numbers[engine], None)
                return None
            number, ref = _place(place)
            if self._engines[number] != engine:
                raise CarouselError(
                    "SESSION_EXISTS",
                    f"session {session_id!r} is open on model {self._engines[number]!r}",
                    field="session_id",
                )
            return ref

    def settle(self, tenant: str, session_id: str, ref: SessionRef) -> None:
        """Tells where a claimed session lives from now on."""
        with self._lock:
            number, _ = _place(self._open[tenant][session_id])
            self._open[tenant][session_id] = _placed(number, ref)
            self._ended.pop((tenant, session_id), None)

    def release(self, tenant: str, session_id: str, reason: str = "") -> None:
        """Forgets an open or claimed session; with a reason, remembers why it ended."""
        with self._lock:
            del self._open[tenant][session_id]
            if not self._open[tenant]:
                del self._open[tenant]
            if reason:
                self._ended[tenant, session_id] = reason
                while len(self._ended) > _REMEMBERED:
                    self._ended.popitem(last=False)

    def find(self, tenant: str, session_id: str) -> tuple[str, SessionRef] | None:
        """Engine and ref of an open session, if it is on a row."""
        with self._lock:
            place = self._open[tenant].get(session_id) if tenant in self._open else None
            if place is None:
                return None
            number, ref = _place(place)
            return None if ref is None else (self._engines[number], ref)

    def why_gone(self, tenant: str, session_id: str) -> str:
        """Why a session is not open here, as far as this process knows: a reason of the registry."""
        with self._lock:
            return self._ended.get((tenant, session_id), "SESSION_NOT_FOUND")

    def __len__(self) -> int:
        """Number of open or opening sessions."""
        with self._lock:
            return sum(map(len, self._open.values()))


def _placed(engine: int, ref: SessionRef | None) -> int:
    """An engine's number and a session there as one integer; without a ref, it is still being opened."""
    row, generation = (-1, 0) if ref is None else ref
    assert engine < 1 << _ENGINE_BITS
    assert row + 1 < 1 << _ROW_BITS
    return ((generation << _ROW_BITS) | (row + 1)) << _ENGINE_BITS | engine


def _place(placed: int) -> tuple[int, SessionRef | None]:
    """The inverse of `_placed`."""
    engine, place = placed & ((1 << _ENGINE_BITS) - 1), placed >> _ENGINE_BITS
    row = (place & ((1 << _ROW_BITS) - 1)) - 1
    return engine, None if row < 0 else SessionRef(row, place >> _ROW_BITS)
