"""Which requests run next, and which run together."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from carousel_server.core.store import Acquire, AskFor, CommitGroup, Release, StoreRequest

_MOST_IN_GROUP = 4096
"""Most sessions in one transaction of commits, or in one release."""


class Requests:
    """The requests that wait. Not safe for several threads.

    Commits overtake other requests. When many sessions come at once, hundreds of requests wait. Outputs of
    sync sessions wait for commits, so all their clients would wait for these requests. A commit is of a
    session that this replica runs, so nothing that it overtakes is about that session. Both kinds take turns,
    so other requests overtake commits too. A session is released when its commits are answered. If its lease
    has run out, it is released at once, and the store then decides about a late commit by its epoch.
    """

    def __init__(self, most_acquires: int) -> None:
        """`most_acquires`: how many sessions the store can acquire together."""
        self._most_acquires = most_acquires
        self._commits: deque[StoreRequest] = deque()
        self._others: deque[StoreRequest] = deque()
        # Whether the last group that was taken was one of commits.
        self._committed = False

    def __len__(self) -> int:
        """Number of requests that wait."""
        return len(self._commits) + len(self._others)

    def add(self, request: StoreRequest) -> None:
        """Adds a request."""
        queue = self._commits if isinstance(request, CommitGroup) else self._others
        queue.append(request)

    def take(self) -> Sequence[StoreRequest]:
        """Takes the next request, and those directly behind it that can run together with it."""
        self._committed = bool(self._commits) and not (self._committed and self._others)
        queue = self._commits if self._committed else self._others
        if not queue:
            return ()
        requests = [queue.popleft()]
        size = self._size(requests[0])
        while queue and size and type(queue[0]) is type(requests[0]):
            more = self._size(queue[0])
            size += more
            if not more or size > self._most(requests[0]):
                break
            requests.append(queue.popleft())
        return requests

    def drain(self) -> Sequence[StoreRequest]:
        """Takes all."""
        waiting = [*self._commits, *self._others]
        self._commits.clear()
        self._others.clear()
        return waiting

    def _most(self, request: StoreRequest) -> int:
        return self._most_acquires if isinstance(request, Acquire | AskFor) else _MOST_IN_GROUP

    @staticmethod
    def _size(request: StoreRequest) -> int:
        """Sessions of a request that can run together with others of its kind, at least 1. Else 0.

        Each opening is checked against the quotas, so it runs alone.
        """
        match request:
            case CommitGroup(commits):
                return max(len(commits), 1)
            case Release(held):
                return max(len(held), 1)
            case Acquire(new=None) | AskFor():
                return 1
            case _:
                return 0
