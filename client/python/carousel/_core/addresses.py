"""The servers that a client knows, and which of them take work just now."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from carousel_protos.placement import ranked

FIRST_AWAY_S = 0.25
MOST_AWAY_S = 10.0
"""Time in which a server that failed is not chosen where another one will do. It doubles from the first to
the most, until the server answers.
"""


class Addresses:
    """Any thread may use it: each change replaces one value. Time comes in as an argument.

    Attributes:
        known: the servers, in any order. A single target may be in any form that gRPC knows.
        several: the client was given more than one server, or a name that may have more than one.
    """

    def __init__(self, known: Sequence[str], *, several: bool | None = None) -> None:
        self.known = tuple(known)
        self.several = len(self.known) > 1 if several is None else several
        # Failures in a row, and the end of the pause after the last one.
        self._away: dict[str, tuple[int, float]] = {}
        self._turn = 0

    def replace(self, known: Sequence[str]) -> None:
        """The servers are others now. What is known of those that stay remains."""
        self.known = tuple(known)
        for address in set(self._away) - set(known):
            self._away.pop(address, None)

    def failed(self, address: str, now_s: float) -> None:
        """A server could not be reached, or will stop. Failures at one time count once."""
        failures, until_s = self._away.get(address, (0, now_s))
        if until_s <= now_s:
            away_s = min(FIRST_AWAY_S * 2.0 ** min(failures, 30), MOST_AWAY_S)
            self._away[address] = failures + 1, now_s + away_s

    def answered(self, address: str) -> None:
        """A server works."""
        self._away.pop(address, None)

    def is_away(self, address: str, now_s: float) -> bool:
        """Whether a server has just failed."""
        return self._away.get(address, (0, now_s))[1] > now_s

    def best(self, session_id: str, now_s: float, avoid: Collection[str] = ()) -> str | None:
        """The first of a session's servers that is not away and not to be avoided; None if there is none."""
        for address in ranked(session_id, self.known):
            if address not in avoid and not self.is_away(address, now_s):
                return address
        return None

    def place(self, session_id: str, now_s: float) -> str:
        """Where to look for a session. If all servers are away, the one whose pause ends first."""
        best = self.known[0] if not self.several else self.best(session_id, now_s)
        return best or self._first_back(ranked(session_id, self.known))

    def next_in_turn(self, now_s: float) -> str:
        """A server for a call that needs no session. Calls are spread over all that are not away."""
        here = [one for one in self.known if not self.is_away(one, now_s)]
        self._turn += 1
        return here[self._turn % len(here)] if here else self._first_back(self.known)

    def _first_back(self, addresses: Sequence[str]) -> str:
        return min(addresses, key=lambda one: self._away.get(one, (0, 0.0))[1])
