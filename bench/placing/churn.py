"""What happens to a fleet: one replica comes, one crashes, all restart one by one."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from bench.figures import Measured

from .fleet import Fleet

LAGS_S = (1, 5, 30)
"""How old a client's list of the replicas may be."""

RESTART_S = 10.0
"""From the end of a drained process until the next one accepts sessions."""

_COUNTED = 20
"""About so many restarts in which redirects are counted."""

_SAMPLES = 3
"""Instants between two events at which the redirects are counted."""


def join(fleet: Fleet, newcomer: int) -> Measured:
    """A replica comes, and the others hand over what is its."""
    fleet.start(newcomer)
    rebalance_s = fleet.settled_s()
    moved = len(fleet.plan.sessions)
    fleet.advance(rebalance_s)
    return {"rebalance_s": rebalance_s, "moved_share": moved / len(fleet.where), **_waits(fleet)}


def crash(fleet: Fleet, replica: int) -> Measured:
    """A replica dies, and all its clients go to others when the lease is over."""
    return {"all_run_again_s": fleet.crash(replica)}


def rolling_restart(fleet: Fleet, *, settle: bool) -> Measured:
    """All replicas restart, one after the other.

    With `settle`, the next one waits until the last one has its sessions back, as well as until it is ready.
    """
    redirects = _Redirects(fleet)
    replicas = np.flatnonzero(fleet.accepting)
    counted = set(replicas[:: max(len(replicas) // _COUNTED, 1)].tolist())
    for replica in replicas.tolist():
        redirects.counts = replica in counted
        redirects.until(fleet.drain(replica))
        redirects.until(fleet.now_s + RESTART_S)
        fleet.start(replica)
        if settle:
            redirects.until(fleet.settled_s())
    took_s = fleet.now_s
    fleet.advance(fleet.settled_s())
    moves = sum(map(len, fleet.waits_s))
    return {
        "minutes": took_s / 60,
        "settled_after_minutes": (fleet.now_s - took_s) / 60,
        "moves_per_session": moves / len(fleet.where),
        **_waits(fleet),
        **dict(redirects.shares()),
    }


class _Redirects:
    """The share of Binds that go to a wrong replica, for clients whose lists are old.

    Attributes:
        counts: False while time passes uncounted.
    """

    def __init__(self, fleet: Fleet) -> None:
        self.counts = True
        self._fleet = fleet
        self._chance = np.random.default_rng(2)
        # Since when who accepts; as far back as the oldest list.
        self._past: deque[tuple[float, NDArray[np.bool_]]] = deque([(-1e9, fleet.accepting.copy())])
        self._wrong: dict[int, float] = dict.fromkeys((0, *LAGS_S), 0.0)
        self._seconds = 0.0

    def until(self, until_s: float) -> None:
        """Lets time pass. Called between any two events."""
        fleet = self._fleet
        self._past.append((fleet.now_s, fleet.accepting.copy()))
        while len(self._past) > 1 and self._past[1][0] < fleet.now_s - max(LAGS_S):
            self._past.popleft()
        if self.counts:
            self._count(until_s - fleet.now_s)
        fleet.advance(until_s)

    def _count(self, span_s: float) -> None:
        fleet = self._fleet
        changed = np.flatnonzero(np.any([one != fleet.accepting for _, one in self._past], axis=0))
        touched = fleet.touched(changed.tolist())
        owners = [fleet.owners(touched, accepting) for _, accepting in self._past]
        for at_s in fleet.now_s + span_s * self._chance.random(_SAMPLES):
            where = fleet.where_at(touched, float(at_s))
            for lag_s in self._wrong:
                wrong = (owners[self._list_at(at_s - lag_s)] != where).sum()
                self._wrong[lag_s] += float(wrong) / len(fleet.where) * span_s / _SAMPLES
        self._seconds += span_s

    def shares(self) -> Iterator[tuple[str, float]]:
        """Means over the time that was counted, by the age of the list."""
        for lag_s, wrong in self._wrong.items():
            yield f"redirected_share_{lag_s}_s", wrong / self._seconds

    def _list_at(self, at_s: float) -> int:
        """Which of the past lists was the one of that instant."""
        return next(i for i in reversed(range(len(self._past))) if self._past[i][0] <= at_s)


def _waits(fleet: Fleet) -> Measured:
    """How long moved sessions waited in the queue of their next holder."""
    waits_ms = np.concatenate([np.zeros(1), *fleet.waits_s]) * 1e3
    return {
        "queue_p50_ms": float(np.quantile(waits_ms, 0.5)),
        "queue_p99_ms": float(np.quantile(waits_ms, 0.99)),
    }
