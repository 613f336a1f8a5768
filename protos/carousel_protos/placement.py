"""On which of several servers a session should be: rendezvous hashing (Thaler and Ravishankar, 1998).

Every client and server computes the same place from the session's id and the servers' addresses. When a
server comes or goes, only the sessions that it wins or had are placed anew. A place is a wish: the lease in
the store decides who runs a session, so a wrong address costs a redirect and nothing else.

The score of a session at an address is `mix(first 8 bytes of SHA-256(id) xor the same of the address)`,
big-endian, both in UTF-8. `mix` is the finalizer of SplitMix64 (Steele, Lea and Flood, 2014). The highest
score wins, and of equal ones the greater address.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

Uint64s = NDArray[np.uint64]


def placed(session_id: str, addresses: Sequence[str]) -> str:
    """The address where a session should be. `addresses` has at least one, in any order."""
    return ranked(session_id, addresses)[0]


def ranked(session_id: str, addresses: Sequence[str]) -> list[str]:
    """All addresses, the best first: where a session should be if those before are gone."""
    session = _hash(session_id)
    return sorted(addresses, key=lambda one: (_mix(session ^ _hash(one)), one), reverse=True)


def placed_all(session_ids: Sequence[str], addresses: Sequence[str]) -> NDArray[np.int64]:
    """`placed` for many sessions: int64[n], the index in `addresses` for each."""
    order = sorted(range(len(addresses)), key=addresses.__getitem__, reverse=True)
    sessions = hashed(session_ids)
    best, where = np.zeros(len(sessions), np.uint64), np.full(len(sessions), order[0], np.int64)
    for index in order:
        scores = scores_at(sessions, addresses[index])
        better = scores > best
        best[better], where[better] = scores[better], index
    return where


def hashed(session_ids: Sequence[str]) -> Uint64s:
    """The hashes that stand for sessions in `scores_at`; uint64[n]."""
    return np.array([_hash(one) for one in session_ids], np.uint64)


def scores_at(sessions: Uint64s, address: str) -> Uint64s:
    """The scores at one address of sessions, given by their hashes; uint64[n]."""
    return _mix_all(sessions ^ np.uint64(_hash(address)))


def _hash(name: str) -> int:
    return int.from_bytes(sha256(name.encode()).digest()[:8], "big")


_SHIFTS = (30, 27, 31)
_FACTORS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 1)
_MASK = (1 << 64) - 1


def _mix(value: int) -> int:
    for shift, factor in zip(_SHIFTS, _FACTORS, strict=True):
        value = (value ^ (value >> shift)) * factor & _MASK
    return value


def _mix_all(values: Uint64s) -> Uint64s:
    """`_mix` of each value."""
    for shift, factor in zip(_SHIFTS, _FACTORS, strict=True):
        values = (values ^ (values >> np.uint64(shift))) * np.uint64(factor)
    return values
