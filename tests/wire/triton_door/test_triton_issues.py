"""Open issues of NVIDIA Triton's sequence batcher, each as a test of our door: what happens here instead."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
from support.server import FEATURES, LSTM, ServerProcess
from support.triton import TritonStubs
from support.wire import refused

X = np.random.default_rng(8449).standard_normal((6, FEATURES)).astype("<f4")


ABANDONED = 40


async def run(stubs: TritonStubs, sequence: int | str, rows: np.ndarray = X) -> np.ndarray:
    """A whole sequence by unary calls; float32[steps, output width]."""
    last = len(rows) - 1
    found = [
        await stubs.infer(LSTM, row, sequence, start=n == 0, end=n == last)
        for n, row in enumerate(rows)
    ]
    return np.concatenate([tensors["y"] for tensors in found])


async def test_7117_a_cancelled_sequence_leaves_nothing_to_the_next_one(models_dir: Path) -> None:
    """One slot, so that the next sequence stands where the cancelled one stood."""
    with ServerProcess(models_dir, slots=1, strict=True, idle_ttl_s=0.5) as server:
        async with TritonStubs(server.target) as stubs:
            expected = await run(stubs, 1)
            stream = stubs.stream()
            for n in range(4):
                await stream.say(LSTM, 9 * X[n], 2, start=n == 0)
            await stream.output()
            stream.call.cancel()
            ended = f'carousel_sessions_ended_total{{how="expired",model="{LSTM}"}} 1.0'
            await asyncio.to_thread(server.metrics_once, ended)
            np.testing.assert_array_equal(await run(stubs, 3), expected)
            np.testing.assert_array_equal(await run(stubs, 2), expected)


async def test_5453_an_idle_sequence_is_parked_and_not_dropped(
    models_dir: Path, tmp_path: Path
) -> None:
    """Clients send no silence to stay alive. There, it was gone after a second, and nothing said so."""
    store = f"sqlite:{tmp_path / 'sessions.db'}"
    with ServerProcess(models_dir, store=store, park_after_s=0.2, strict=True) as server:
        async with TritonStubs(server.target) as stubs:
            expected = await run(stubs, 1)
            for n, row in enumerate(X):
                parked = f'carousel_sessions_moved_total{{how="parked",model="{LSTM}"}} {n}.0'
                if n:
                    await asyncio.to_thread(server.metrics_once, parked)
                found = await stubs.infer(LSTM, row, 2, start=n == 0)
                np.testing.assert_array_equal(found["y"][0], expected[n])


async def test_8449_abandoned_sequences_expire_once_and_others_go_on(models_dir: Path) -> None:
    """There, the reaper found the same idle sequences again and again, and no new one ran."""
    with ServerProcess(models_dir, slots=ABANDONED, strict=True, idle_ttl_s=1) as server:
        async with TritonStubs(server.target) as stubs:
            expected = await run(stubs, 1)
            for sequence in range(2, ABANDONED + 2):  # and no END
                await stubs.infer(LSTM, X[0], sequence, start=True)
            ended = f'carousel_sessions_ended_total{{how="expired",model="{LSTM}"}} {ABANDONED}.0'
            await asyncio.to_thread(server.metrics_once, ended)
            for sequence in (2, ABANDONED + 1):
                error = await refused(stubs.infer(LSTM, X[1], sequence))
                assert error.reason == "SESSION_EXPIRED"
            np.testing.assert_array_equal(await run(stubs, 2), expected)
            assert ended in server.metrics_now().splitlines(), "each was ended once"
