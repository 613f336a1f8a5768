"""Which session is where: the one map from a session's id to its engine and row."""

from __future__ import annotations

import threading
from collections import OrderedDict, defaultdict
from dataclasses import dataclass

from carousel_server.core.errors import CarouselError
from carousel_server.core.types import SessionRef

_REMEMBERED = 65_536


@dataclass(slots=True)
class _Entry:
    """A session's place; no row while its engine is still opening it. There may be millions of these."""

    engine: str
    row: int = -1
    generation: int = 0

    @property
    def ref(self) -> SessionRef | None:
        return None if self.row < 0 else SessionRef(self.row, self.generation)


class Directory:
    """Session ids of all engines, by tenant. Safe to use from any thread.

    Ended sessions are remembered for a while (the last 65,536), so that a client that comes back late is
    told that its session expired, not that it never was.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # tenant → id → place, for open sessions.
        self._open: defaultdict[str, dict[str, _Entry]] = defaultdict(dict)
        # (tenant, id) → reason from the registry, oldest first, for ended ones.
        self._ended: OrderedDict[tuple[str, str], str] = OrderedDict()

    def claim(self, tenant: str, session_id: str, engine: str) -> SessionRef | None:
        """Reserves an id for an engine that is about to open it.

        Returns the session's ref if that engine has it open already, else None.

        Raises:
            CarouselError: SESSION_EXISTS if another engine has it.
        """
        with self._lock:
            entry = self._open[tenant].get(session_id)
            if entry is None:
                self._open[tenant][session_id] = _Entry(engine)
                return None
            if entry.engine != engine:
                raise CarouselError(
                    "SESSION_EXISTS",
                    f"session {session_id!r} is open on model {entry.engine!r}",
                    field="session_id",
                )
            return entry.ref

    def settle(self, tenant: str, session_id: str, ref: SessionRef) -> None:
        """Tells where a claimed session lives from now on."""
        with self._lock:
            entry = self._open[tenant][session_id]
            entry.row, entry.generation = ref
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
            entry = self._open[tenant].get(session_id) if tenant in self._open else None
            ref = None if entry is None else entry.ref
            return None if entry is None or ref is None else (entry.engine, ref)

    def why_gone(self, tenant: str, session_id: str) -> str:
        """Why a session is not open here, as far as this process knows: a reason of the registry."""
        with self._lock:
            return self._ended.get((tenant, session_id), "SESSION_NOT_FOUND")

    def __len__(self) -> int:
        """Number of open or opening sessions."""
        with self._lock:
            return sum(map(len, self._open.values()))


def ended(reason: str, session_id: str) -> CarouselError:
    """The error that tells a caller why its session is not there."""
    said = {
        "SESSION_NOT_FOUND": "is not open here",
        "SESSION_EXPIRED": "was idle for longer than its idle_ttl and has expired",
        "SESSION_CLOSED": "was closed",
        "SESSION_PARKED": "is in the store only, since just now",
        "LEASE_LOST": "was let go of, since its lease was taken or has run out",
    }[reason]
    return CarouselError(reason, f"session {session_id!r} {said}", field="session_id")
