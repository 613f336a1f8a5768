"""Three ways to place sessions on replicas, vectorised: the product's, and two usual ones beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from carousel_protos.placement import Uint64s, hashed, scores_at

Owners = NDArray[np.int16]
"""The index of a replica for each session."""

Scheme = Callable[[Uint64s, Sequence[str]], Owners]
"""From the sessions' hashes and the replicas' addresses to each session's owner."""

RING_POINTS = 160
"""Points of each replica on the ring, as in ketama."""

_CHUNK = 1 << 15
"""Sessions at a time, so that the scores of a chunk stay in the processor's cache."""


def rendezvous(sessions: Uint64s, addresses: Sequence[str]) -> Owners:
    """The product's hash: each session is at the address that has its highest score."""
    return ranks(sessions, addresses, 1)[:, 0]


def ranks(sessions: Uint64s, addresses: Sequence[str], most: int) -> NDArray[np.int16]:
    """The best addresses of each session by rendezvous hashing, the best first; int16[n, most].

    Equal scores go to the later address: with 64 bits there are none to speak of.
    """
    found = np.empty((len(sessions), most), np.int16)
    for start in range(0, len(sessions), _CHUNK):
        chunk = sessions[start : start + _CHUNK]
        best = np.zeros((len(chunk), most), np.uint64)
        where = np.zeros((len(chunk), most), np.int16)
        for index, address in enumerate(addresses):
            _insert(best, where, scores_at(chunk, address), index)
        found[start : start + _CHUNK] = where
    return found


def _insert(best: Uint64s, where: NDArray[np.int16], scores: Uint64s, index: int) -> None:
    """Puts an address among the best ones of those sessions that score high there."""
    rows = np.flatnonzero(scores >= best[:, -1])
    best[rows, -1], where[rows, -1] = scores[rows], index
    for column in range(best.shape[1] - 1, 0, -1):
        rows = rows[best[rows, column] >= best[rows, column - 1]]
        for array in (best, where):
            upper = array[rows, column - 1].copy()
            array[rows, column - 1], array[rows, column] = array[rows, column], upper


def ring(sessions: Uint64s, addresses: Sequence[str]) -> Owners:
    """Consistent hashing: the first point of the ring at or behind the session's hash."""
    points = hashed([f"{one}-{i}" for one in addresses for i in range(RING_POINTS)])
    order = np.argsort(points)
    at = np.searchsorted(points[order], sessions) % len(points)
    return (order[at] // RING_POINTS).astype(np.int16)


def modulo(sessions: Uint64s, addresses: Sequence[str]) -> Owners:
    """The remainder of the session's hash: what a front without a plan does."""
    return (sessions % np.uint64(len(addresses))).astype(np.int16)


SCHEMES: dict[str, Scheme] = {
    "rendezvous": rendezvous,
    f"ring, {RING_POINTS} points": ring,
    "modulo": modulo,
}


def session_hashes(count: int) -> Uint64s:
    """The hashes of the sessions `s0`, `s1` and so on."""
    hashes = np.empty(count, np.uint64)
    for start in range(0, count, 1 << 20):
        stop = min(start + (1 << 20), count)
        hashes[start:stop] = hashed([f"s{number}" for number in range(start, stop)])
    return hashes


def addresses(count: int) -> list[str]:
    """Addresses as those of a StatefulSet."""
    return [f"carousel-{number}.carousel-headless:50051" for number in range(count)]
