"""What each level of durability costs, on each store: the same load, alternately, in one run."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from . import models, processes, served
from .figures import Measured, Workload

LEVELS = ("none", "async", "sync", "sync+fsync")
STORES = ("sqlite", "redis")
WAYS = ("1 session", "64 sessions", "blocks of 64 sessions")

Summary = Mapping[str, Mapping[str, Mapping[str, float]]]


def workloads(
    options: argparse.Namespace,
    device: str,
    folder: Path,
    stack: ExitStack,
    runner: asyncio.Runner,
) -> Sequence[Workload]:
    """Every way of stepping at every level of every store that this machine has."""
    models.make(folder / "models")
    work: list[Workload] = []
    for store in STORES:
        url = stack.enter_context(_store(store, folder))
        if url is None:
            print(f"durability on {store}: SKIPPED: no {store}-server on this machine")
            continue
        server = processes.carousel_server(folder / "models", device, store=url)
        address = stack.enter_context(server)
        work += _of_store(store, address, runner, options.seconds)
    return work


def ratios(figures: Summary) -> Iterator[tuple[str, float]]:
    """Each level over none, on the same server."""
    for store in STORES:
        for way in WAYS:
            none = figures.get(_name(store, "none", way))
            if none is None:
                continue
            for level in LEVELS[1:]:
                measured = figures[_name(store, level, way)]
                share = measured["steps_per_s"]["median"] / none["steps_per_s"]["median"]
                yield f"{store}: {way}: {level} over none (steps per second)", share


def _of_store(
    store: str, address: str, runner: asyncio.Runner, seconds: float
) -> Iterator[Workload]:
    def steps(level: str, count: int) -> Callable[[], Measured]:
        return lambda: runner.run(served.steps(address, count, seconds, durability=level))

    def blocks(level: str) -> Callable[[], Measured]:
        return lambda: runner.run(served.blocks(address, 1, seconds, durability=level))

    for level in LEVELS:
        yield Workload(_name(store, level, WAYS[0]), steps(level, 1))
        yield Workload(_name(store, level, WAYS[1]), steps(level, 64))
        yield Workload(_name(store, level, WAYS[2]), blocks(level))


def _name(store: str, level: str, way: str) -> str:
    return f"{store}, {level}: {way}"


def _store(kind: str, folder: Path) -> processes.StoreUrl:
    if kind == "sqlite":
        return processes.sqlite_file(folder / "sessions.db")
    return processes.redis_server(folder)
