"""(o) What one operation of the Redis store costs, by the size of a snapshot: what sizing stands on.

One thread calls the store as a server's own thread does, in groups. The times are the caller's. The time of
the Redis process and the bytes that reach it stand beside them, since they bound what one shard can bear.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import redis

from bench import processes
from bench.figures import Measured, Workload
from bench.report import Summary
from carousel_server.core.store import Store
from carousel_server.store.opening import open_store

from .counting import Servers
from .requests import Requests, repeated

SIZES = (1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10)
"""Bytes of a snapshot."""

GROUP = 64
"""Sessions whose snapshots a server sends as one group."""

_MOST_SESSIONS = 2048
_MOST_BYTES = 256 << 20
_RENEWALS = 200


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
        servers, raw = Servers(url), redis.Redis.from_url(url)
        stack.callback(servers.close)
        stack.callback(raw.close)
        costs = _Costs(store, servers, raw, options.seconds)
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
    """Measures one Redis, which has nothing else."""

    def __init__(self, store: Store, servers: Servers, raw: Any, seconds: float) -> None:
        self._store, self._servers, self._raw = store, servers, raw
        self._seconds = seconds

    def measure(self, size: int) -> Measured:
        """Opens sessions with snapshots of one size; commits, releases, activates and ends them."""
        store, cost = self._store, self._servers.cost
        self._raw.flushdb()
        assert store.renew() in (True, False)  # the lease was flushed too
        requests = Requests(store, min(_MOST_SESSIONS, _MOST_BYTES // size), size)
        empty_bytes = self._servers.memory_bytes()
        opened = cost("open", requests.open)
        requests.commit(requests.keys)
        filled_bytes = self._servers.memory_bytes() - empty_bytes
        commit = cost("commit", lambda: requests.commit_for(self._seconds, GROUP))
        alone = cost("commit alone", lambda: requests.commit_for(self._seconds, 1))
        released = cost("release", requests.release)
        activated = cost("activate", requests.activate)
        renewed = cost("renew", repeated(_RENEWALS, store.renew))
        return {
            "open_us": opened.wall_us,
            "redis_bytes_per_session": filled_bytes / len(requests.keys),
            "commits_per_s": 1e6 / commit.wall_us,
            "commit_us": commit.wall_us,
            "redis_commit_us": commit.server_us,
            "received_bytes_per_commit": commit.bytes_in,
            "commit_alone_us": alone.wall_us,
            "release_us": released.wall_us,
            "activate_us": activated.wall_us,
            "renew_us": renewed.wall_us,
        }
