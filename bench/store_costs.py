"""(o) What one operation of the Redis store costs, by the size of a snapshot: what sizing stands on.

One thread calls the store as a server's own thread does, in groups. The times are the caller's. The time of
the Redis process and the bytes that reach it stand beside them, since they bound what one shard can bear.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import redis

from carousel_server.core.store import Commit, Holding, NewSession, SessionKey, Store
from carousel_server.core.types import Durability
from carousel_server.store.opening import open_store

from . import processes
from .figures import Measured, Workload
from .report import Summary

SIZES = (1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10)
"""Bytes of a snapshot."""

GROUP = 64
"""Sessions whose snapshots a server sends as one group."""

_MOST_SESSIONS = 2048
_MOST_BYTES = 256 << 20


def workloads(
    options: argparse.Namespace,
    _device: str,
    folder: Path,
    stack: ExitStack,
    _runner: asyncio.Runner,
) -> Sequence[Workload]:
    """Each size of a snapshot, on a Redis that syncs every second and on one that syncs each write."""
    work = []
    for fsync in ("everysec", "always"):
        place = folder / fsync
        place.mkdir()
        url = stack.enter_context(processes.redis_server(place, fsync))
        if url is None:
            print("store-costs: SKIPPED: no redis-server on this machine")
            return []
        store = open_store(url, replica="bench", lease_ttl_s=600.0)
        stack.callback(store.close)
        costs = _Costs(store, redis.Redis.from_url(url), options.seconds)
        work += [_workload(costs, fsync, size) for size in SIZES]
    return work


def ratios(figures: Summary) -> Iterator[tuple[str, float]]:
    """How much of a shard one commit takes, by size."""
    for size in SIZES:
        found = figures.get(name_of("everysec", size))
        if found is not None:
            yield f"{size >> 10} KiB: Redis' own µs per commit", found["redis_commit_us"]["median"]


def name_of(fsync: str, size: int) -> str:
    """The name of a workload."""
    return f"redis, {fsync}: {size >> 10} KiB"


def _workload(costs: _Costs, fsync: str, size: int) -> Workload:
    return Workload(name_of(fsync, size), lambda: costs.measure(size))


class _Costs:
    """Measures one store."""

    def __init__(self, store: Store, raw: Any, seconds: float) -> None:
        self._store, self._raw, self._seconds = store, raw, seconds

    def measure(self, size: int) -> Measured:
        """Opens sessions with snapshots of one size; commits, releases, activates and ends them."""
        store = self._store
        self._raw.flushdb()
        assert store.renew() in (True, False)  # the lease was flushed too
        keys = [SessionKey("t", f"s{i}") for i in range(min(_MOST_SESSIONS, _MOST_BYTES // size))]
        snapshot = bytes(range(256)) * (size // 256)
        new = NewSession("m", Durability.ASYNC, 3600.0, 1, time.time())
        empty_bytes = self._raw.info("memory")["used_memory"]
        found: Measured = {}

        def acquire(key: SessionKey, new: NewSession | None) -> int:
            return store.acquire(key, epoch_floor=0, new=new).epoch

        epochs: dict[SessionKey, int] = {}
        found["open_us"] = self._each(keys, lambda key: epochs.update({key: acquire(key, new)}))
        seqs = iter(range(1, 1 << 40))

        def commit(some: Sequence[SessionKey]) -> None:
            seq, now = next(seqs), time.time()
            commits = [Commit(key, epochs[key], seq, snapshot, now) for key in some]
            assert len(store.commit(commits, fsync=False)) == len(some)

        commit(keys)
        found["redis_bytes_per_session"] = (
            self._raw.info("memory")["used_memory"] - empty_bytes
        ) / len(keys)
        groups = [keys[i : i + GROUP] for i in range(0, len(keys), GROUP)]
        found |= self._for_a_while(groups, commit)
        single = [[key] for key in keys]
        found["commit_alone_us"] = self._for_a_while(single, commit)["commit_us"]
        held = [Holding(key, epochs[key], time.time()) for key in keys]
        began = time.perf_counter()
        store.release(held)
        found["release_us"] = (time.perf_counter() - began) / len(keys) * 1e6
        found["activate_us"] = self._each(
            keys, lambda key: epochs.update({key: acquire(key, None)})
        )
        found["renew_us"] = self._each(range(200), lambda _: store.renew())
        return found

    def _each(self, things: Any, use: Callable[[Any], object]) -> float:
        """Microseconds for each, one after the other."""
        began = time.perf_counter()
        for thing in things:
            use(thing)
        return (time.perf_counter() - began) / len(things) * 1e6

    def _for_a_while(
        self, groups: Sequence[Sequence[SessionKey]], commit: Callable[[Sequence[SessionKey]], None]
    ) -> Measured:
        """Commits group after group, and counts what it costs here and in Redis."""
        before, began, commits = self._spent(), time.perf_counter(), 0
        while time.perf_counter() - began < self._seconds:
            group = groups[commits // len(groups[0]) % len(groups)]
            commit(group)
            commits += len(group)
        took_s = time.perf_counter() - began
        cpu_s, received = (b - a for a, b in zip(before, self._spent(), strict=True))
        return {
            "commits_per_s": commits / took_s,
            "commit_us": took_s / commits * 1e6,
            "redis_commit_us": cpu_s / commits * 1e6,
            "received_bytes_per_commit": received / commits,
        }

    def _spent(self) -> tuple[float, float]:
        """Seconds of Redis' processor, and bytes that it received."""
        info = self._raw.info()
        cpu_s = info["used_cpu_user"] + info["used_cpu_sys"]
        return cpu_s, info["total_net_input_bytes"]
