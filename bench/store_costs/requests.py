"""The requests of one server to its store, with sessions of their own. Each verb returns how many it made."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

from carousel_server.core.store import Commit, Holding, NewSession, SessionKey, Store, Verdict
from carousel_server.core.types import Durability


class Requests:
    """One thread makes them, as a server's own thread does.

    Args:
        store: where. The sessions stay there until `remove`.
        sessions: how many.
        snapshot_bytes: size of a snapshot.
    """

    def __init__(self, store: Store, sessions: int, snapshot_bytes: int) -> None:
        self.keys = [SessionKey("bench", f"session-{number}") for number in range(sessions)]
        self._store = store
        self._snapshot = os.urandom(snapshot_bytes)
        self._epochs: dict[SessionKey, int] = {}
        self._seq = 0

    def open(self) -> int:
        """Opens all sessions."""
        return self._acquire(NewSession("model", Durability.ASYNC, 3600.0, 1, time.time()))

    def activate(self) -> int:
        """Activates all sessions, which are in the store."""
        return self._acquire(None)

    def commit(self, keys: Sequence[SessionKey]) -> int:
        """Commits a snapshot of each, as one group."""
        self._seq += 1
        now = self._store.now_unix_s()
        commits = [Commit(key, self._epochs[key], self._seq, self._snapshot, now) for key in keys]
        outcomes = self._store.commit(commits, fsync=False)
        assert {one.verdict for one in outcomes} == {Verdict.DONE}
        return len(keys)

    def commit_for(self, seconds: float, group: int) -> int:
        """Commits groups of sessions in turn, for a while."""
        groups = [self.keys[i : i + group] for i in range(0, len(self.keys), group)]
        until_s, commits, turn = time.perf_counter() + seconds, 0, 0
        while time.perf_counter() < until_s:
            commits += self.commit(groups[turn % len(groups)])
            turn += 1
        return commits

    def release(self) -> int:
        """Releases all sessions, as one group."""
        now = self._store.now_unix_s()
        self._store.release([Holding(key, self._epochs[key], now) for key in self.keys])
        return len(self.keys)

    def remove(self) -> int:
        """Ends all sessions."""
        for key in self.keys:
            self._store.remove(key, self._epochs[key], "SESSION_CLOSED")
        return len(self.keys)

    def _acquire(self, new: NewSession | None) -> int:
        for key in self.keys:
            self._epochs[key] = self._store.acquire(key, epoch_floor=0, new=new).epoch
        return len(self.keys)


def repeated(times: int, request: Callable[[], object]) -> Callable[[], int]:
    """Makes a request several times, and returns how often."""

    def work() -> int:
        for _ in range(times):
            request()
        return times

    return work
