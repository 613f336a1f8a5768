"""Which requests run together: neighbours in the queue that commit snapshots become one transaction."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from carousel_server.core.store import CommitGroup, StoreRequest

_MOST_IN_GROUP = 4096
"""Most snapshots in one transaction."""


def take_group(queue: deque[StoreRequest]) -> Sequence[StoreRequest]:
    """Takes the next request. After a commit group come the commit groups directly behind it."""
    if not queue:
        return ()
    requests = [queue.popleft()]
    records = _records(requests[0])
    while queue and records and _records(queue[0]):
        records += _records(queue[0])
        if records > _MOST_IN_GROUP:
            break
        requests.append(queue.popleft())
    return requests


def _records(request: StoreRequest) -> int:
    """Snapshots in a commit group, at least 1. 0 for other requests."""
    return max(len(request.commits), 1) if isinstance(request, CommitGroup) else 0
