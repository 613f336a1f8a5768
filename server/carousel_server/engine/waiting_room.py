"""Sessions that come from the store and find every slot taken: they wait a moment, in order.

A slot is given back by parking, and only what the store has all of, and has had its turn, can be parked.
Under pressure that is a matter of one commit, so it would be a pity to refuse at once.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from carousel_server.core.errors import CarouselError
from carousel_server.core.ports import Activate
from carousel_server.core.types import SessionRef

from .lifetimes import STAY_S, Lifetimes

log = logging.getLogger(__name__)

_MOST_WAITING = 4096

_PATIENCE_S = 5 * STAY_S
"""How long a session waits: some turns of those who have the slots."""

Answer = Callable[[Activate, SessionRef | CarouselError], None]


@dataclass(frozen=True, slots=True)
class _Waiting:
    """One session, and how long it waits at most."""

    command: Activate
    until_s: float


class WaitingRoom:
    """Activates sessions as slots come free. Used on the engine's thread only."""

    def __init__(self, lifetimes: Lifetimes, answer: Answer) -> None:
        self._lifetimes = lifetimes
        self._answer = answer
        self._waiting: deque[_Waiting] = deque()

    def __len__(self) -> int:
        """Number of sessions that wait."""
        return len(self._waiting)

    def enter(self, command: Activate, now: float) -> None:
        """Activates a session, or lets it wait behind those who do."""
        full = len(self._waiting) >= _MOST_WAITING
        if (self._waiting and not full) or not self._try(command, now, last=full):
            self._waiting.append(_Waiting(command, now + _PATIENCE_S))
            self._lifetimes.hurry_room(len(self._waiting))

    def look(self, now: float) -> None:
        """Lets in who can be, and turns away who has waited for too long."""
        while self._waiting:
            first = self._waiting[0]
            if not self._try(first.command, now, last=first.until_s <= now):
                self._lifetimes.hurry_room(len(self._waiting))
                return
            self._waiting.popleft()

    def rest(self) -> list[Activate]:
        """At the end: who waits still."""
        left = [waiting.command for waiting in self._waiting]
        self._waiting.clear()
        return left

    def _try(self, command: Activate, now: float, *, last: bool) -> bool:
        """True if the command was answered: it is in, or refused for another reason than room."""
        try:
            result: SessionRef | CarouselError = self._lifetimes.activate(command.record, now)
        except CarouselError as error:
            if error.reason == "SLAB_FULL" and not last and self._lifetimes.may_get_room:
                return False
            result = error
        except Exception:
            # A defect of ours in one session must not cost the others their model.
            log.exception("activating a session failed")
            result = CarouselError("INTERNAL", "the server failed on this session")
        self._answer(command, result)
        return True
