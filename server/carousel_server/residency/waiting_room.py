"""Sessions that come from the store and find no row: they wait a moment, tenants in turn.

Parking frees a row. It needs a session that the store has all of and that has had its turn. Under pressure
that takes one commit, so a session waits for it before it is refused.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from carousel_server.core.errors import CarouselError
from carousel_server.core.futures import settle
from carousel_server.core.ports import Activate
from carousel_server.core.quotas import Shares
from carousel_server.core.types import SessionRef

from .room import STAY_S, Room

log = logging.getLogger(__name__)

_MOST_WAITING = 4096

_PATIENCE_S = 5 * STAY_S
"""How long a session waits: a few turns of the sessions that have the rows."""

_FULL = "SLAB_FULL"
_NO_ROOM = (_FULL, "QUOTA_EXCEEDED")
"""What may pass when a session is parked: any, or one of the same tenant."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """One session, and how long it waits at most."""

    command: Activate
    until_s: float


class WaitingRoom:
    """Activates sessions as slots come free, tenants in turn. Used on the engine's thread only."""

    def __init__(
        self, activate: Callable[[Activate, float], SessionRef], room: Room, share: float = 0.0
    ) -> None:
        """`activate` brings a session onto a row, or raises."""
        self._activate = activate
        self._room = room
        self._shares = Shares(_MOST_WAITING, share)
        # Of each tenant with sessions that wait, in the order of their turns.
        self._waiting: dict[str, deque[_Waiting]] = {}
        self._count = 0

    def __len__(self) -> int:
        """Number of sessions that wait."""
        return self._count

    def enter(self, command: Activate, now: float) -> None:
        """Activates a session, or lets it wait for the turn of its tenant."""
        tenant = command.record.key.tenant
        full = self._count >= _MOST_WAITING or not self._shares.fits(tenant)
        if (self._waiting and not full) or self._try(command, now, last=full):
            self._add(tenant, _Waiting(command, now + _PATIENCE_S))
            self._hurry()

    def admit(self, now: float) -> None:
        """Activates waiting sessions that fit. Refuses those past their deadline."""
        if not self._count:
            return
        turns, full = deque(self._waiting), False
        while turns:
            tenant = turns.popleft()
            first = self._waiting[tenant][0]
            late = first.until_s <= now
            if full and not late:
                continue
            lacking = self._try(first.command, now, last=late)
            full = full or lacking == _FULL
            if not lacking:
                self._remove(tenant)
                if tenant in self._waiting:
                    turns.append(tenant)
        if self._waiting:
            self._hurry()

    def drain(self) -> list[Activate]:
        """Takes all that wait, at the end."""
        left = [waiting.command for queue in self._waiting.values() for waiting in queue]
        while self._waiting:
            self._remove(next(iter(self._waiting)))
        return left

    def _add(self, tenant: str, waiting: _Waiting) -> None:
        self._waiting.setdefault(tenant, deque()).append(waiting)
        self._shares.take(tenant)
        self._count += 1

    def _remove(self, tenant: str) -> None:
        """The first of a tenant has been answered; its next turn comes behind the others'."""
        queue = self._waiting.pop(tenant)
        queue.popleft()
        if queue:
            self._waiting[tenant] = queue
        self._shares.give_back(tenant)
        self._count -= 1

    def _hurry(self) -> None:
        self._room.hurry({tenant: len(q) for tenant, q in self._waiting.items()})

    def _try(self, command: Activate, now: float, *, last: bool) -> str:
        """Answers a command, or gives the reason why it has to wait: no slot, or not for its tenant."""
        try:
            result: SessionRef | CarouselError = self._activate(command, now)
        except CarouselError as error:
            if error.reason in _NO_ROOM and not last and self._room.can_come_free:
                return error.reason
            result = error
        except Exception:
            # A defect of ours in one session must not cost the others their model.
            log.exception("activating a session failed")
            result = CarouselError("INTERNAL", "the server failed on this session")
        settle(command.reply, result)
        return ""
