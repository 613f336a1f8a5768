"""Which store suits several replicas of one machine: `python -m bench.one_host`.

Each replica is a process that commits groups of snapshots, as its engine does, as fast as the store allows.
The stores take turns in one run, so that a busy minute of the machine meets all of them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.pool import Pool
from pathlib import Path
from typing import NamedTuple

from carousel_server.core.store import Commit, NewSession, SessionKey, Store
from carousel_server.core.types import Durability
from carousel_server.store import SharedSqliteStore, SqliteStore, open_store

from . import processes

_SNAPSHOT_BYTES = 4096
_KINDS = ("sqlite, alone", "sqlite, shared", "redis, everysec")


class Load(NamedTuple):
    """What one replica does.

    Attributes:
        kind: one of `_KINDS`.
        place: the file, or the URL.
        name: of the replica.
        group: snapshots in a commit.
        seconds: how long.
    """

    kind: str
    place: str
    name: str
    group: int
    seconds: float


def opened(load: Load) -> Store:
    """The store of a replica."""
    if load.kind == "sqlite, alone":
        return SqliteStore(Path(load.place))
    if load.kind == "sqlite, shared":
        return SharedSqliteStore(Path(load.place), load.name)
    return open_store(load.place, replica=load.name, lease_ttl_s=10.0)


def commits(load: Load) -> list[float]:
    """Commits groups for a while. Returns the seconds of each commit."""
    store = opened(load)
    new = NewSession("m", Durability.ASYNC, 3600.0, 1, time.time())
    keys = [SessionKey("t", f"{load.name}-{number}") for number in range(load.group)]
    epochs = [store.acquire(key, epoch_floor=0, new=new).epoch for key in keys]
    took: list[float] = []
    until_s, seq = time.monotonic() + load.seconds, 0
    while time.monotonic() < until_s:
        seq += 1
        snapshot = seq.to_bytes(8, "big") * (_SNAPSHOT_BYTES // 8)
        group = [
            Commit(key, epoch, seq, snapshot, time.time())
            for key, epoch in zip(keys, epochs, strict=True)
        ]
        began_s = time.perf_counter()
        store.commit(group, fsync=False)
        took.append(time.perf_counter() - began_s)
    store.close()
    return took


@contextmanager
def place_of(kind: str, folder: Path) -> Iterator[str | None]:
    """A new, empty store. None where this machine has no redis-server."""
    if kind == "redis, everysec":
        with processes.redis_server(folder, appendfsync="everysec") as url:
            yield url
    else:
        yield str(folder / "sessions.db")


def measure(pool: Pool, kind: str, replicas: int, group: int, seconds: float) -> str:
    """One line: snapshots a second of all replicas, and the times of a commit."""
    with tempfile.TemporaryDirectory() as folder, place_of(kind, Path(folder)) as place:
        if place is None:
            return "SKIPPED: no redis-server on this machine"
        loads = [Load(kind, place, f"r{i}", group, seconds) for i in range(replicas)]
        each = pool.map(commits, loads, chunksize=1)
    took = [one for replica in each for one in replica]
    p50, p99 = (statistics.quantiles(took, n=100)[at] * 1e3 for at in (49, 98))
    return f"{len(took) * group / seconds:9.0f} snapshots/s  p50 {p50:6.2f} ms  p99 {p99:6.2f} ms"


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a line for each kind of store, number of replicas and size of a group."""
    parser = argparse.ArgumentParser(prog="python -m bench.one_host", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each line")
    parser.add_argument("--rounds", type=int, default=3, help="how often all are measured")
    parser.add_argument("--groups", type=int, nargs="+", default=[1, 16, 128])
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 2, 4])
    options = parser.parse_args(arguments)
    with multiprocessing.get_context("spawn").Pool(max(options.replicas)) as pool:
        for _ in range(options.rounds):
            for group in options.groups:
                for replicas in options.replicas:
                    for kind in _KINDS:
                        if replicas == 1 or kind != "sqlite, alone":
                            line = measure(pool, kind, replicas, group, options.seconds)
                            print(
                                f"{kind:16} {replicas} replicas, {group:4} a group: {line}",
                                flush=True,
                            )


if __name__ == "__main__":
    main()
