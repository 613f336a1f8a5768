"""Runs a load in one process of clients or in several."""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.synchronize import Barrier
from threading import BrokenBarrierError

import carousel
from carousel.cli.exits import CliError

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


class ClientEndedError(CliError):
    """A process of clients has ended without a result, such as one that the system killed."""

    def __init__(self) -> None:
        super().__init__(
            "a process of clients has ended without a result",
            "see whether the system killed it for its memory, or use fewer --clients",
        )


def measure(target: Target, load: Load) -> Result:
    """Runs a load and returns its result. All sessions are closed when it returns or is interrupted.

    Raises:
        CarouselError: a session could not be opened.
        ClientEndedError: a process of clients has ended by itself.
        KeyboardInterrupt: Ctrl-C, or SIGTERM.
    """
    if load.clients == 1:
        return Result(load, share(target, load, 0, lambda: None))
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(load.clients)
    readers: list[Connection] = []
    processes = []
    try:
        for number in range(load.clients):
            reader, writer = context.Pipe(duplex=False)
            given = (target, load, number, barrier, writer)
            process = context.Process(target=_client, args=given, daemon=True)
            process.start()
            processes.append(process)
            readers.append(reader)
            writer.close()  # so that the end of the process ends the pipe
        return Result(load, Sample.joined(_samples(readers)))
    finally:
        barrier.abort()  # no client waits for the others any more
        for process in processes:
            process.terminate()  # it closes its sessions first
        for process in processes:
            process.join()


def _samples(readers: list[Connection]) -> Iterator[Sample]:
    """What the processes send, as it comes."""
    left = list(readers)
    while left:
        found = []
        for reader in wait(left):
            assert isinstance(reader, Connection)
            left.remove(reader)
            try:
                found.append(reader.recv())
            except EOFError:
                found.append(ClientEndedError())
        errors = [each for each in found if isinstance(each, Exception)]
        # A client that failed has broken the barrier of the others, after it sent its own error.
        for error in sorted(errors, key=lambda each: isinstance(each, BrokenBarrierError)):
            raise error
        yield from found


def share(target: Target, load: Load, number: int, ready: Callable[[], object]) -> Sample:
    """The measurements of one client."""

    async def measured() -> Sample:
        stop_on_signals()
        client = carousel.AsyncClient(
            target.address, token=target.token, tls=target.tls, retries=carousel.RetryPolicy()
        )
        async with client:
            return await run(client, await client.model(load.model), load, number, ready)

    try:
        return asyncio.run(measured())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def stop_on_signals() -> None:
    """The first SIGINT or SIGTERM cancels this task, so that it can end what it has opened.

    A second SIGINT ends the process at once. Both signals come for one Ctrl-C in a process of clients.
    """
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None
    came: list[int] = []

    def stop(number: int) -> None:
        if came.count(signal.SIGINT) and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not came:
            task.cancel()
        came.append(number)

    with suppress(NotImplementedError):  # Windows has no such handlers
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop, number)


def _client(target: Target, load: Load, number: int, barrier: Barrier, results: Connection) -> None:
    """The main function of a process of clients."""

    def ready() -> None:
        barrier.wait(READY_S)

    try:
        results.send(share(target, load, number, ready))
    except KeyboardInterrupt:
        return
    except Exception as error:  # noqa: BLE001 - the process that reads it raises it
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it must not end while it holds the barrier
        results.send(error)
        barrier.abort()  # the others must not wait for this one
