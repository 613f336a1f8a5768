"""Both clients over breaks, crashes and drains of a fake server: an application sees a pause, if anything."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import carousel
from carousel.testing import FakeServer

from .support import LETTERS, MODELS, SUM, client_of, opened, sums

ROWS = np.arange(400, dtype=np.float32).reshape(200, 2) % 7
QUICK = carousel.RetryPolicy(first_delay_s=0.001)


@pytest.fixture
def durable() -> Iterator[FakeServer]:
    with FakeServer(*MODELS, chunk_steps=3, durable=True) as server:
        yield server


@pytest.fixture(params=["sync", "async"])
def make(request: pytest.FixtureRequest, durable: FakeServer) -> Iterator[Callable[..., Any]]:
    made = []
    with asyncio.Runner() as runner:

        def make_client(target: str = durable.target, **options: Any) -> Any:
            options = {"timeout_s": 20.0, "retries": QUICK, **options}
            made.append(client_of(request.param, target, runner, **options))
            return made[-1]

        yield make_client
        for client in made:
            client.close()


@pytest.mark.parametrize("level", ["async", "sync", "sync_fsync", "none", "unspecified"])
@pytest.mark.parametrize("end", ["break_streams", "crash", "drain"])
def test_steps_go_on(durable: FakeServer, make: Callable[..., Any], level: str, end: str) -> None:
    client = make()
    with client.session("sum", durability=level) as session:
        outputs = []
        if level == "none" and end != "break_streams":
            session.step(ROWS[0])
            getattr(durable, end)()
            with pytest.raises(carousel.DataLossError, match="durability none"):
                session.step(ROWS[1])
            return
        for place, row in enumerate(ROWS):
            outputs.append(session.step(row))
            if place % 50 == 25:
                getattr(durable, end)()
        np.testing.assert_array_equal(outputs, sums(ROWS))
        assert session.applied == session.info().applied == len(ROWS)
        assert session.info().execution_class == "fake"
    statistics = client.statistics()
    assert statistics.reconnects == 4
    assert statistics.rebinds >= 4
    assert statistics.replays_diverged == 0
    assert durable.sessions() == []


@pytest.mark.parametrize("end", ["break_streams", "crash", "drain"])
def test_streams_and_batches_go_on(durable: FakeServer, make: Callable[..., Any], end: str) -> None:
    client = make()
    sessions = [opened(client.session("sum")) for _ in range(3)]
    batch = client.batch(sessions)
    rows = np.stack([ROWS, ROWS + 1, ROWS * 2])
    outputs = []
    for begin in range(0, 100, 10):
        outputs.append(batch.steps(rows[:, begin : begin + 10]))
        getattr(durable, end)()
    joined = np.concatenate(outputs, axis=1)
    for place in range(3):
        np.testing.assert_array_equal(joined[place], sums(rows[place, :100]))
    with client.session("sum") as session:
        streamed = []
        for y in session.stream(iter(ROWS), block_steps=3):
            streamed.append(y)
            if len(streamed) % 40 == 7:
                getattr(durable, end)()
        np.testing.assert_array_equal(streamed, sums(ROWS))


def test_what_was_not_committed_is_sent_again(make: Callable[..., Any]) -> None:
    with FakeServer(SUM, durable=True, commits=False) as server:
        client = make(server.target)
        with client.session("sum") as session:
            first = session.steps(ROWS[:6])
            server.crash()  # nothing was committed: all six are run again, and compared
            second = session.steps(ROWS[6:8])
            np.testing.assert_array_equal(np.concatenate([first, second]), sums(ROWS[:8]))
            assert client.statistics().resent_steps >= 6
            assert client.statistics().replayed_steps_compared == 6
            server.commit()


def test_a_server_that_computes_otherwise_is_found_out(make: Callable[..., Any]) -> None:
    shift = {"by": np.float32(0)}

    def step(x: Any, state: Any) -> tuple[Any, Any]:
        return np.array([state + x.sum() + shift["by"], x[0]], np.float32), state + x.sum()

    model = carousel.testing.FakeModel("odd", step, features=2, outputs=2, initial=np.float32(0))
    with FakeServer(model, durable=True, commits=False) as server:
        strict, tolerant = make(server.target), make(server.target, replay_tolerance=0.01)
        sessions = [opened(client.session("odd")) for client in (strict, tolerant)]
        for session in sessions:
            session.steps(ROWS[:4])
        shift["by"] = np.float32(0.001)
        server.crash()
        with pytest.raises(carousel.ReplayDivergedError, match="step 1"):
            sessions[0].step(ROWS[4])
        assert sessions[1].step(ROWS[4])[1] == ROWS[4][0]
        assert strict.statistics().replays_diverged == 1
        server.commit()


@pytest.mark.parametrize("reason", ["DRAINING", "SESSION_HELD", "STORE_UNAVAILABLE", "LEASE_LOST"])
def test_refusals_on_the_way_are_not_seen(
    durable: FakeServer, make: Callable[..., Any], reason: str
) -> None:
    client = make(retries=carousel.RetryPolicy(attempts=2, first_delay_s=0.001))
    with client.session("sum") as session:
        durable.inject("Step", reason, times=3, retry_after_s=0.001)
        np.testing.assert_array_equal(session.steps(ROWS), sums(ROWS))
        durable.inject("Attach", "TOO_MANY_STREAMS", times=2, retry_after_s=0.001)
        durable.inject("Bind", reason, times=2, retry_after_s=0.001)
        durable.break_streams()
        session.step([0, 0])


def test_a_new_session_waits_out_a_break(durable: FakeServer, make: Callable[..., Any]) -> None:
    client = make(retries=carousel.RetryPolicy(attempts=2, first_delay_s=0.001))
    with client.session("sum") as one:
        durable.inject("Attach", "DRAINING", times=5, retry_after_s=0.02)
        durable.break_streams()
        with client.session("sum") as other:
            other.step([1, 1])
        one.step([1, 1])


def test_a_text_in_a_session_goes_on(durable: FakeServer, make: Callable[..., Any]) -> None:
    client = make()
    with client.session("letters", seed=3) as session:
        session.steps("hello")
        whole = session.generate("a", max_tokens=50, seed=7).text()
    for end in ("break_streams", "crash"):
        with client.session("letters", seed=3) as session:
            session.steps("hello")
            durable.inject("Token", "DRAINING", times=1, retry_after_s=0.001)
            generation, text = session.generate("a", max_tokens=50, seed=7), ""
            for place, token in enumerate(generation):
                text += token.text
                if place == 20:
                    getattr(durable, end)()
            assert text == whole
            assert generation.usage.generated_tokens == 50
            session.step(97)
            assert session.applied == session.info().applied == 56


def test_a_text_in_a_session_that_is_lost_says_so(
    durable: FakeServer, make: Callable[..., Any]
) -> None:
    client = make()
    session = opened(client.session("letters", durability="none"))
    generation = session.generate("a", max_tokens=100_000)
    next(iter(generation))
    durable.crash()
    with pytest.raises(carousel.DataLossError):
        generation.text()


def test_patience_ends(make: Callable[..., Any]) -> None:
    with FakeServer(SUM, durable=True) as server:
        client = make(
            server.target, retries=carousel.RetryPolicy(first_delay_s=0.01, reconnect_s=0.3)
        )
        session = opened(client.session("sum"))
        session.step([1, 1])
    with pytest.raises(carousel.ConnectionLostError, match="reconnect_s"):
        session.step([1, 1])
    with pytest.raises(carousel.ConnectionLostError):
        session.step([1, 1])
    with pytest.raises(carousel.ServerUnreachableError):
        opened(client.session("sum"))


def test_a_step_that_nobody_waits_for_any_more_still_runs(
    durable: FakeServer, make: Callable[..., Any]
) -> None:
    client = make()
    with client.session("sum") as session:
        session.step([1, 0])
        durable.inject("Attach", "TOO_MANY_STREAMS", times=20, retry_after_s=0.02)
        durable.break_streams()
        with pytest.raises(carousel.ReplyTimeoutError):
            session.step([2, 0], timeout_s=0.02)
        assert session.step([4, 0])[0] == 7


def test_a_session_is_closed_in_the_midst_of_a_break(
    durable: FakeServer, make: Callable[..., Any]
) -> None:
    client = make()
    with client.session("sum") as session:
        session.step([1, 0])
        durable.break_streams()
    assert durable.sessions() == []


def test_closing_a_client_does_not_wait_for_a_reconnection(make: Callable[..., Any]) -> None:
    with FakeServer(SUM) as server:
        client = make(server.target, retries=carousel.RetryPolicy(first_delay_s=4.0))
        session = opened(client.session("sum"))
        session.step([1, 1])
    started_s = time.monotonic()
    client.close()
    with pytest.raises(carousel.ClientClosedError):
        session.step([1, 1])
    assert time.monotonic() - started_s < 30  # far less; a reader that hangs is joined for 60


def test_threads_share_one_mending(durable: FakeServer) -> None:
    with (
        carousel.Client(durable.target, retries=QUICK, timeout_s=60.0) as client,
        ThreadPoolExecutor(8) as pool,
    ):

        def work(number: int) -> np.ndarray:
            with client.session("sum") as session:
                return np.stack([session.step(row * number) for row in ROWS])

        waits = [pool.submit(work, number) for number in range(8)]
        for end in (durable.crash, durable.break_streams, durable.drain) * 3:
            threading.Event().wait(0.02)  # in the midst of things, wherever that is
            end()
        for number, wait in enumerate(waits):
            np.testing.assert_array_equal(wait.result(60), sums(ROWS * number))


async def test_tasks_share_one_mending(durable: FakeServer) -> None:
    async with carousel.AsyncClient(durable.target, retries=QUICK, timeout_s=60.0) as client:

        async def work(number: int) -> np.ndarray:
            async with client.session("sum") as session:
                return np.stack([await session.step(row * number) for row in ROWS])

        async def disturb() -> None:
            for end in (durable.crash, durable.break_streams, durable.drain) * 3:
                await asyncio.sleep(0.02)
                end()

        results, _ = await asyncio.gather(
            asyncio.gather(*[work(number) for number in range(8)]), disturb()
        )
        for number, outputs in enumerate(results):
            np.testing.assert_array_equal(outputs, sums(ROWS * number))


def test_the_window_of_letters_is_wide_enough() -> None:
    assert LETTERS.window_steps > 5
