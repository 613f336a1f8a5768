"""kill -9 and SIGTERM of a server with a store, in the midst of steps: the application sees a pause."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.server import FEATURES, GRU_BYTES, LSTM, ServerProcess

import carousel

ROWS = np.random.default_rng(3).standard_normal((600, FEATURES)).astype(np.float32)
WAIT_S = 120.0


class Reborn:
    """A server on one port and one store that can be ended and started again."""

    def __init__(self, models_dir: Path, path: Path) -> None:
        self._models_dir, self._path = models_dir, path
        self._stack = ExitStack()
        self.process = self._start(0)
        self.target = self.process.target

    def _start(self, port: int) -> ServerProcess:
        server = ServerProcess(
            self._models_dir, port=port, slots=16, strict=True, store=f"sqlite:{self._path}"
        )
        return self._stack.enter_context(server)

    def again(self, number: signal.Signals) -> None:
        """Ends the server, by its own leave or not, and starts the next."""
        self.process.signal(number)
        self.process.process.wait()
        self.process = self._start(self.process.port)

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def reborn(models_dir: Path, tmp_path: Path) -> Iterator[Reborn]:
    server = Reborn(models_dir, tmp_path / "sessions.db")
    yield server
    server.close()


def undisturbed(client: carousel.Client) -> Any:
    with client.session(LSTM) as session:
        return session.steps(ROWS)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("level", ["async", "sync"])
def test_steps_go_on_over_restarts(reborn: Reborn, level: str, end: signal.Signals) -> None:
    with carousel.Client(reborn.target, timeout_s=WAIT_S) as client:
        expected = undisturbed(client)
        with client.session(LSTM, durability=level) as session:
            outputs, restarts = [], []
            for y in session.stream(iter(ROWS), ahead=24):
                outputs.append(y)
                if len(outputs) in (200, 400):
                    for restart in restarts:
                        restart.join()
                    restarts.append(threading.Thread(target=reborn.again, args=(end,)))
                    restarts[-1].start()
            restarts[-1].join()
            np.testing.assert_array_equal(outputs, expected)
            assert session.applied == session.info().applied == len(ROWS)
        statistics = client.statistics()
        assert statistics.reconnects >= 2
        assert statistics.replays_diverged == 0


async def test_the_asyncio_client_goes_on_too(reborn: Reborn) -> None:
    with carousel.Client(reborn.target, timeout_s=WAIT_S) as blocking:
        expected = undisturbed(blocking)
    async with carousel.AsyncClient(reborn.target, timeout_s=WAIT_S) as client:
        sessions = [await client.session(LSTM) for _ in range(3)]
        batch, outputs = client.batch(sessions), []
        for begin in range(0, len(ROWS), 60):
            rows = np.stack([ROWS[begin : begin + 60]] * 3)
            outputs.append(await batch.steps(rows))
            if begin == 240:
                reborn.again(signal.SIGKILL)
        for place in range(3):
            np.testing.assert_array_equal(np.concatenate(outputs, axis=1)[place], expected)
            await sessions[place].close()


def test_a_session_without_durability_is_lost_by_name(reborn: Reborn) -> None:
    with carousel.Client(reborn.target, timeout_s=WAIT_S) as client:
        session = client.session(LSTM, durability="none")
        session.step(ROWS[0])
        reborn.again(signal.SIGKILL)
        with pytest.raises(carousel.DataLossError, match="durability none"):
            session.step(ROWS[1])


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_text_in_a_session_goes_on(reborn: Reborn, end: signal.Signals) -> None:
    with carousel.Client(reborn.target, timeout_s=WAIT_S) as client:
        with client.session(GRU_BYTES, seed=5) as session:
            session.steps("def ")
            whole = session.generate("a", max_tokens=3_000).text()
        with client.session(GRU_BYTES, seed=5) as session:
            session.steps("def ")
            generation = session.generate("a", max_tokens=3_000)
            begun = "".join(next(generation).text for _ in range(10))
            reborn.again(end)
            assert begun + generation.text() == whole
            session.step(97)
            assert session.applied == session.info().applied


def test_a_journal_outlives_both_ends(reborn: Reborn, tmp_path: Path) -> None:
    with carousel.Client(reborn.target, timeout_s=WAIT_S) as client:
        expected = undisturbed(client)
        session = client.session(LSTM, journal=tmp_path / "j")
        session.steps(ROWS[:100])
    reborn.again(signal.SIGKILL)
    with carousel.Client(reborn.target, timeout_s=WAIT_S) as client:
        with client.session(LSTM, journal=tmp_path / "j") as session:
            assert session.submitted == 100
            np.testing.assert_array_equal(session.replay(), expected[:100])
            np.testing.assert_array_equal(session.steps(ROWS[100:]), expected[100:])
        assert not list(client.sessions())
