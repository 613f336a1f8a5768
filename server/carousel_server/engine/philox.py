"""Counter-based random numbers: a pure function of (seed, position).

Philox4x32-10 of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
A draw needs no state, so a generation that is repeated, resumed or batched with others draws the same.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from carousel_server.core.types import Float64s

UInt64s = npt.NDArray[np.uint64]

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)


def philox4x32(counter: UInt64s, key: UInt64s, rounds: int = 10) -> UInt64s:
    """The block function.

    Args:
        counter: uint64[n, 4], each word < 2**32.
        key: uint64[n, 2], each word < 2**32.
        rounds: 10 in the paper's recommended form.

    Returns:
        uint64[n, 4], each word < 2**32.
    """
    c0, c1, c2, c3 = counter.T
    k0, k1 = key.T
    for _ in range(rounds):
        p0, p1 = c0 * _M0, c2 * _M1
        c0, c1, c2, c3 = (p1 >> _32) ^ c1 ^ k0, p1 & _LOW, (p0 >> _32) ^ c3 ^ k1, p0 & _LOW
        k0, k1 = (k0 + _W0) & _LOW, (k1 + _W1) & _LOW
    return np.stack((c0, c1, c2, c3), axis=1)


def uniform(seeds: UInt64s, positions: UInt64s) -> Float64s:
    """One number in [0, 1) for each (seed, position); float64[n] with 53 random bits."""
    zero = np.zeros_like(positions)
    counter = np.stack((positions & _LOW, positions >> _32, zero, zero), axis=1)
    key = np.stack((seeds & _LOW, seeds >> _32), axis=1)
    words = philox4x32(counter, key)
    bits = ((words[:, 0] << _32) | words[:, 1]) >> np.uint64(11)
    return np.asarray(bits.astype(np.float64) * 2.0**-53)
