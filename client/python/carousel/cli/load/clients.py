"""Runs a load in one process of clients or in several."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import carousel

from .plan import Load, Result, Sample
from .streams import run

READY_S = 300.0
"""Greatest time until all sessions of all clients are open."""


@dataclass(frozen=True, slots=True)
class Target:
    """The server, as AsyncClient takes it."""

    address: str
    token: str | None
    tls: carousel.TLS | None


def measure(target: Target, load: Load) -> Result:
    """Runs a load and returns its result.

    Raises:
        CarouselError: a session could not be opened.
    """
    if load.clients == 1:
        return Result(load, share(target, load, 0, lambda: None))
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(load.clients)
    with context.Pool(load.clients, initializer=_begin, initargs=(barrier,)) as pool:
        numbers = [(target, load, number) for number in range(load.clients)]
        try:
            return Result(load, Sample.joined(pool.starmap(_share, numbers, chunksize=1)))
        finally:
            pool.terminate()


def share(target: Target, load: Load, number: int, ready: Callable[[], object]) -> Sample:
    """The measurements of one client."""

    async def measured() -> Sample:
        client = carousel.AsyncClient(
            target.address, token=target.token, tls=target.tls, retries=carousel.RetryPolicy()
        )
        async with client:
            return await run(client, await client.model(load.model), load, number, ready)

    return asyncio.run(measured())


_barrier: Any = None


def _begin(barrier: Any) -> None:
    """Keeps the barrier of a new process, which only a process's first arguments can carry."""
    global _barrier  # noqa: PLW0603 - one process, one barrier
    _barrier = barrier


def _share(target: Target, load: Load, number: int) -> Sample:
    def ready() -> None:
        _barrier.wait(READY_S)

    try:
        return share(target, load, number, ready)
    except BaseException:
        _barrier.abort()  # the others must not wait for this one
        raise
