"""(n) Where sessions are among up to a thousand replicas: balance, moves, redirects, restarts.

`python -m bench placement` simulates. It measures nothing but the placement itself: the rates at which
replicas give and take sessions are the setting `moves_per_s` and what `python -m bench parking` measured.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.figures import Measured, Workload
from bench.report import Summary

from . import churn
from .fleet import Fleet, Rates
from .schemes import SCHEMES, addresses, ranks, session_hashes

REPLICAS = (3, 10, 30, 100, 300, 1000)
PER_REPLICA = 10_000
"""Sessions of each replica: ten million on a thousand."""

SESSIONS = max(REPLICAS) * PER_REPLICA
_RANKS = 4
"""Places that are known of a session: more replicas than that are never away at once."""

MOVES_PER_S = 100.0
"""The setting `moves_per_s`."""

_COSTS = Path(__file__).parents[1] / "results" / "parking-cpu.json"
"""A hand-over, and the activation elsewhere, are taken to cost what an open with its first step costs."""

hashes = cache(session_hashes)


def workloads(
    options: argparse.Namespace,
    _device: str,
    _folder: Path,
    _stack: ExitStack,
    _runner: asyncio.Runner,
) -> Sequence[Workload]:
    """Each number of replicas: three ways to place, then what happens in the product's way."""
    work: list[Workload] = []
    for n in REPLICAS:
        per_replica = options.sessions // max(REPLICAS)
        work += _events(n, per_replica)
        work += [_balance(scheme, n, n * per_replica) for scheme in SCHEMES]
    return work


def ratios(figures: Summary) -> Iterator[tuple[str, float]]:
    """What matters at the largest number of replicas."""
    n = max(REPLICAS)
    for scheme in SCHEMES:
        found = figures[f"{scheme}: {n} replicas"]
        yield f"{scheme}, {n} replicas: fullest over mean", found["max_over_mean"]["median"]
        yield f"{scheme}, {n} replicas: moved over ideal", found["moved_over_ideal"]["median"]


def _balance(scheme: str, n: int, sessions: int) -> Workload:
    return Workload(f"{scheme}: {n} replicas", lambda: balance(scheme, n, sessions))


def balance(scheme: str, n: int, count: int) -> Measured:
    """How even the sessions are, and what moves when one replica more comes, or goes again.

    `extra_over_ideal`: the most that one of the others gets of the sessions of a replica that goes,
    over an even share.
    """
    if scheme == "rendezvous":  # with the second best, one pass says both
        best = _places(n, count)
        after = best[:, 0]
        before = np.where(after == n, best[:, 1], after)
    else:
        sessions, names = hashes(count), addresses(n + 1)
        before, after = (SCHEMES[scheme](sessions, names[:size]) for size in (n, n + 1))
    loads = np.bincount(before, minlength=n)
    moved = before != after
    taken = np.bincount(before[after == n], minlength=n)
    return {
        "max_over_mean": loads.max() * n / count,
        "p99_over_mean": float(np.quantile(loads, 0.99)) * n / count,
        "min_over_mean": loads.min() * n / count,
        "moved_share": float(moved.mean()),
        "moved_over_ideal": float(moved.mean()) * (n + 1),
        "extra_over_ideal": taken.max() * n / max(int(taken.sum()), 1),
    }


def _events(n: int, per_replica: int) -> Iterator[Workload]:
    """What happens to n replicas."""
    events: dict[str, Callable[[], Measured]] = {
        "one comes": lambda: churn.join(_fleet(n, per_replica), n),
        "one comes, givers bounded only": lambda: churn.join(
            _fleet(n, per_replica, shared=False), n
        ),
        "one crashes": lambda: churn.crash(_fleet(n, per_replica), 0),
        "rolling restart": lambda: churn.rolling_restart(_fleet(n, per_replica), settle=False),
        "rolling restart that waits": lambda: churn.rolling_restart(
            _fleet(n, per_replica), settle=True
        ),
    }
    for name, measure in events.items():
        yield Workload(f"{name}: {n} replicas", measure)


def _fleet(n: int, per_replica: int, *, shared: bool = True) -> Fleet:
    """So many replicas at work, and one newcomer that does not accept sessions yet."""
    return Fleet(_places(n, n * per_replica), np.arange(n + 1) < n, _rates(shared=shared))


@lru_cache(maxsize=1)
def _places(n: int, sessions: int) -> NDArray[np.int16]:
    """The best of n replicas and a newcomer for each session."""
    return ranks(hashes(sessions), addresses(n + 1), min(_RANKS, n + 1))


def _rates(*, shared: bool) -> Rates:
    measured = json.loads(_COSTS.read_text())["figures"]
    opens_per_s = next(iter(measured.values()))["opens_per_s"]["median"]
    return Rates(MOVES_PER_S, shared=shared, drains_per_s=opens_per_s, takes_per_s=opens_per_s)
