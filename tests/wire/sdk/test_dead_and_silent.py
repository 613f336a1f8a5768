"""A server that dies or falls silent: whoever waits is told so, by name, within seconds."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.server import FEATURES, GRU_BYTES, LSTM, ServerProcess

import carousel

PATIENCE_S = 300.0
"""The clients' own timeout: had they only this, the tests would not end in time."""
WAIT_S = 60.0

ROW = np.ones(FEATURES, np.float32)
ROWS = np.ones((200_000, FEATURES), np.float32)


@pytest.fixture
def doomed(models_dir: Path) -> Iterator[ServerProcess]:
    with ServerProcess(models_dir, slots=32) as process:
        yield process
        process.signal(signal.SIGCONT)


def every_wait(client: carousel.Client, sessions: list[carousel.Session]) -> list[Any]:
    """One call of each kind that does not end by itself for a long time."""
    batch = client.batch(sessions[:2])
    return [
        lambda: batch.steps(np.stack([ROWS, ROWS])),
        lambda: sessions[2].steps(ROWS),
        lambda: list(sessions[3].stream(ROWS)),
        lambda: client.generate(GRU_BYTES, "a", max_tokens=60_000).text(),
        lambda: sessions[4].generate("a", max_tokens=60_000).text(),
        lambda: [client.infer(LSTM, ROWS[:20_000]) for _ in range(1_000)],
    ]


def open_all(client: carousel.Client) -> list[carousel.Session]:
    return [client.session(LSTM) for _ in range(4)] + [client.session(GRU_BYTES)]


def under_way(sessions: list[carousel.Session]) -> bool:
    return all(session.applied > 0 for session in sessions[:4])


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
def test_every_blocking_wait_ends(
    doomed: ServerProcess, end: signal.Signals, quick_keepalive: None
) -> None:
    client = carousel.Client(doomed.target, timeout_s=PATIENCE_S, retries=0)
    with client, ThreadPoolExecutor(8) as pool:
        sessions = open_all(client)
        waits: list[Future[Any]] = [pool.submit(call) for call in every_wait(client, sessions)]
        while not under_way(sessions):
            assert not any(wait.done() for wait in waits)
        doomed.process.send_signal(end)
        for wait in waits:
            error = wait.exception(WAIT_S)
            assert isinstance(error, (carousel.ClientSideError, carousel.BatchStepError)), error
        for session in sessions:
            with pytest.raises(carousel.ClientSideError):
                session.step(ROW if session.model == LSTM else 1)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
async def test_every_awaited_wait_ends(
    doomed: ServerProcess, end: signal.Signals, quick_keepalive: None
) -> None:
    async with carousel.AsyncClient(doomed.target, timeout_s=PATIENCE_S, retries=0) as client:
        sessions = [await client.session(LSTM) for _ in range(4)]
        sessions.append(await client.session(GRU_BYTES))

        async def streamed() -> None:
            async for _ in sessions[3].stream(ROWS):
                pass

        async def inferred() -> None:
            while True:
                await client.infer(LSTM, ROWS[:20_000])

        waits = [
            asyncio.create_task(call)
            for call in (
                client.batch(sessions[:2]).steps(np.stack([ROWS, ROWS])),
                sessions[2].steps(ROWS),
                streamed(),
                client.generate(GRU_BYTES, "a", max_tokens=60_000).text(),
                sessions[4].generate("a", max_tokens=60_000).text(),
                inferred(),
            )
        ]
        while not all(session.applied > 0 for session in sessions[:4]):
            assert not any(wait.done() for wait in waits)
            await asyncio.sleep(0)
        doomed.process.send_signal(end)
        done, late = await asyncio.wait(waits, timeout=WAIT_S)
        assert not late
        for wait in done:
            error = wait.exception()
            assert isinstance(error, (carousel.ClientSideError, carousel.BatchStepError)), error


def test_a_client_goes_on_with_a_server_that_was_silent(doomed: ServerProcess) -> None:
    with (
        carousel.Client(doomed.target, timeout_s=WAIT_S) as client,
        client.session(LSTM) as session,
    ):
        first = session.step(ROW)
        doomed.signal(signal.SIGSTOP)
        with pytest.raises(carousel.ReplyTimeoutError):
            session.step(ROW, timeout_s=0.2)
        doomed.signal(signal.SIGCONT)
        session.step(ROW)
        # The late step was refused by its deadline, or ran: never twice.
        assert session.applied == session.info().applied in (2, 3)
        with client.session(LSTM) as other:
            np.testing.assert_allclose(other.step(ROW), first, atol=1e-6)
