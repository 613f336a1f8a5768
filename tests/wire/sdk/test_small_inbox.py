"""Servers that refuse in passing: small inboxes, and a restart under load. Applications see no error."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import numpy as np
from support.server import FEATURES, LSTM, ServerProcess

import carousel
from carousel import RetryPolicy

CLIENTS, SESSIONS, ROUNDS = 2, 24, 3
OPENS = 300
RETRIES = RetryPolicy(attempts=1000, max_delay_s=2.0, reconnect_s=60.0)


def _rows(number: int) -> np.ndarray:
    """Enough steps for several windows, so that the SDK sends Acks of its own."""
    rng = np.random.default_rng(number)
    return rng.normal(size=(ROUNDS, 60 + 5 * (number % 15), FEATURES)).astype(np.float32)


class _Load:
    """Sessions of several clients, each with its rows; `begun` is set once each has had a round."""

    def __init__(self, target: str) -> None:
        self.begun = asyncio.Event()
        self._target = target
        self._first = SESSIONS

    async def run(self) -> list[np.ndarray]:
        """The outputs of each session. Raises what an application would see."""
        clients = [
            carousel.AsyncClient(self._target, timeout_s=60.0, retries=RETRIES)
            for _ in range(CLIENTS)
        ]
        try:
            return await asyncio.gather(
                *(self._drive(clients[number % CLIENTS], number) for number in range(SESSIONS))
            )
        finally:
            for client in clients:
                await client.close()

    async def _drive(self, client: carousel.AsyncClient, number: int) -> np.ndarray:
        session = await client.session(LSTM, session_id=f"s{number}", durability="async")
        outputs = []
        for rows in _rows(number):
            outputs.append(await session.steps(rows))
            self._first -= len(outputs) == 1
            if not self._first:
                self.begun.set()
        await session.close()
        return np.concatenate(outputs)


async def _expected(target: str) -> list[np.ndarray]:
    """What a server says that has room, one session at a time."""
    async with carousel.AsyncClient(target) as client:
        outputs = []
        for number in range(SESSIONS):
            async with await client.session(LSTM) as session:
                outputs.append(await session.steps(np.concatenate(_rows(number))))
        return outputs


def _same(outputs: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for number, (got, right) in enumerate(zip(outputs, expected, strict=True)):
        np.testing.assert_array_equal(got, right, err_msg=f"session {number}")


def test_a_full_inbox_is_no_error_of_an_application(models_dir: Path, tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path}/sessions.db"
    with ServerProcess(models_dir, strict=True) as server:
        expected = asyncio.run(_expected(server.target))
    with ServerProcess(models_dir, store=store, inbox_commands=2, strict=True) as server:
        _same(asyncio.run(_Load(server.target).run()), expected)


def test_many_opens_at_once_are_no_error_of_an_application(
    models_dir: Path, tmp_path: Path
) -> None:
    rows = np.zeros((ROUNDS, FEATURES), np.float32)

    async def open_and_step(client: carousel.AsyncClient) -> int:
        async with await client.session(LSTM, durability="async") as session:
            await session.steps(rows)
            return session.applied

    async def opened(target: str) -> list[int]:
        async with carousel.AsyncClient(target, timeout_s=60.0) as client:
            return await asyncio.gather(*(open_and_step(client) for _ in range(OPENS)))

    store = f"sqlite:{tmp_path}/sessions.db"
    with ServerProcess(models_dir, store=store, inbox_commands=2) as server:
        assert asyncio.run(opened(server.target)) == [ROUNDS] * OPENS


def test_a_restart_under_load_is_no_error_of_an_application(
    models_dir: Path, tmp_path: Path
) -> None:
    settings = {"store": f"sqlite:{tmp_path}/sessions.db", "strict": True, "replica": "one"}

    async def restarted(first: ServerProcess) -> list[np.ndarray]:
        load = _Load(first.target)
        running = asyncio.create_task(load.run())
        await load.begun.wait()
        first.signal(signal.SIGTERM)
        assert await asyncio.to_thread(first.wait) == 0
        with ServerProcess(models_dir, port=first.port, **settings):
            return await running

    with ServerProcess(models_dir, **settings) as server:
        expected = asyncio.run(_expected(server.target))
        outputs = asyncio.run(restarted(server))
    _same(outputs, expected)
