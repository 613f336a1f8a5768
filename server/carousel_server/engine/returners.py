"""Sessions that no rebalance sends away for a while, since their clients cannot use the owner."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from carousel_server.core.store import SessionKey

_FIRST_S = 60.0
_MOST_DOUBLINGS = 6
_MOST = 65_536


class _Stay(NamedTuple):
    """Until when a session stays, and how long that is in all."""

    until_s: float
    for_s: float


class Returners:
    """Remembers the last 65,536 sessions that were sent away or taken over, each for a minute at first.

    A client that cannot reach the owner comes back, with the session. If it was sent away again at once, it
    would never rest. So it then stays, and each time for twice as long, up to an hour.
    """

    def __init__(self) -> None:
        self._stays: OrderedDict[SessionKey, _Stay] = OrderedDict()

    def __len__(self) -> int:
        """Number of sessions that are remembered."""
        return len(self._stays)

    def note(self, key: SessionKey, now: float) -> None:
        """A session is sent away, or was taken over from a replica that its client cannot reach."""
        last = self._stays.pop(key, None)
        soon = last is not None and now < last.until_s + last.for_s
        for_s = min(2 * last.for_s, _FIRST_S * 2**_MOST_DOUBLINGS) if last and soon else _FIRST_S
        self._stays[key] = _Stay(now + for_s, for_s)
        if len(self._stays) > _MOST:
            self._stays.popitem(last=False)

    def stays(self, key: SessionKey, now: float) -> bool:
        """True if the session, which is here, should not be sent away now."""
        last = self._stays.get(key)
        return last is not None and now < last.until_s
