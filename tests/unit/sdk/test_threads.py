"""The blocking client from several threads, and what ends its waits."""

from __future__ import annotations

import asyncio
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import carousel
from carousel._core.attach import AttachCore
from carousel._core.effects import Effects
from carousel._core.steps import Steps
from carousel._core.tickets import Ticket
from carousel._sync.pending import Pending
from carousel.testing import FakeServer

from .support import sums

ROWS = np.ones((30, 2), np.float32)


def test_threads_with_sessions_of_their_own(fake: FakeServer) -> None:
    with carousel.Client(fake.target) as client, ThreadPoolExecutor(8) as pool:

        def work(number: int) -> np.ndarray:
            with client.session("sum") as session:
                return np.stack([session.step(row * number) for row in ROWS])

        for number, outputs in enumerate(pool.map(work, range(16))):
            np.testing.assert_array_equal(outputs, sums(ROWS * number))
    assert fake.sessions() == []


def test_threads_that_share_a_session_step_it_once_each(fake: FakeServer) -> None:
    with (
        carousel.Client(fake.target) as client,
        client.session("sum") as session,
        ThreadPoolExecutor(8) as pool,
    ):
        outputs = [y[0] for y in pool.map(session.step, [[1, 0]] * 100)]
        assert sorted(outputs) == list(range(1, 101))
        assert session.applied == 100


def test_closing_wakes_whoever_waits(fake: FakeServer) -> None:
    client = carousel.Client(fake.target)
    session = client.session("sum")
    with ThreadPoolExecutor(1) as pool, fake.paused():
        waiting = pool.submit(session.step, [1, 1])
        while not session._lane.cursors.sent:
            threading.Event().wait(0.001)
        client.close()
        with pytest.raises(carousel.ClientClosedError):
            waiting.result(10)


@pytest.mark.parametrize(
    ("part", "at"), [(AttachCore, "submit"), (AttachCore, "receive"), (Steps, "flush")]
)
def test_ctrl_c_at_any_moment_and_the_session_goes_on(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch, part: type, at: str
) -> None:
    """In the midst of the client's own work: no step may be counted and not sent."""
    assert threading.current_thread() is threading.main_thread(), "where Python runs its handlers"
    main = threading.get_ident()
    work = getattr(part, at)
    armed = threading.Event()

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        if armed.is_set():
            armed.clear()
            signal.pthread_kill(main, signal.SIGINT)
        return work(*args, **kwargs)

    with carousel.Client(fake.target) as client, client.session("sum") as session:

        def step_until_interrupted() -> None:
            armed.set()
            while True:
                session.step([1, 1])

        monkeypatch.setattr(part, at, interrupted)
        for _ in range(20):
            with pytest.raises(KeyboardInterrupt):
                step_until_interrupted()
        session.step([1, 1])
        assert session.applied == session.info().applied > 1
        assert session.step([0, 1]).tolist() == [2 * (session.applied - 1) + 1, 0]
    assert fake.sessions() == []


def test_ctrl_c_ends_a_wait(fake: FakeServer) -> None:
    main = threading.get_ident()
    with carousel.Client(fake.target) as client, client.session("sum") as session:
        with fake.paused(), ThreadPoolExecutor(1) as pool:

            def interrupt() -> None:
                # Until the step has been sent, nothing can end it.
                while not session._lane.cursors.sent:
                    threading.Event().wait(0.001)
                signal.pthread_kill(main, signal.SIGINT)

            interrupting = pool.submit(interrupt)
            with pytest.raises(KeyboardInterrupt):
                session.step([1, 1], timeout_s=60.0)
            interrupting.result()
        assert session.step([1, 1]).tolist() == [4, 1]


def test_a_finaliser_may_run_on_the_streams_own_threads(fake: FakeServer) -> None:
    """As the garbage collector does with a generation that somebody forgot."""
    with carousel.Client(fake.target) as client, client.session("letters") as session:
        held = [session.generate("a", max_tokens=50_000)]
        next(held[0])
        pending: Pending[Ticket] = Pending(lambda core: (held.clear(), Effects()))
        session._stream.ask(pending).wait(60.0)
        with client.session("sum") as other:
            assert other.step([1, 1], timeout_s=60.0).tolist() == [2, 1]


def test_a_closed_client_leaves_no_threads(fake: FakeServer) -> None:
    before = set(threading.enumerate())

    def readers() -> list[threading.Thread]:
        return [t for t in set(threading.enumerate()) - before if t.name == "carousel-attach"]

    with carousel.Client(fake.target) as client:
        session = client.session("sum")
        session.step([1, 1])
        assert len(readers()) == 1
        fake.break_streams()
        session.step([1, 1])
        assert len(readers()) == 1  # it lives on from stream to stream
    assert readers() == []


async def test_a_cancelled_step_is_dropped_and_the_session_goes_on(fake: FakeServer) -> None:
    async with carousel.AsyncClient(fake.target) as client, client.session("sum") as session:
        with fake.paused():
            step = asyncio.create_task(session.step([1, 1]))
            await asyncio.sleep(0)  # the step has been sent, up to its wait
            assert session._lane.cursors.sent == 1
            step.cancel()
            with pytest.raises(asyncio.CancelledError):
                await step
        assert (await session.step([1, 1])).tolist() == [4, 1]


async def test_tasks_share_a_client(fake: FakeServer) -> None:
    async with carousel.AsyncClient(fake.target) as client:

        async def work(number: int) -> np.ndarray:
            async with client.session("sum") as session:
                return np.stack([await session.step(row * number) for row in ROWS])

        results = await asyncio.gather(*[work(number) for number in range(8)])
        for number, outputs in enumerate(results):
            np.testing.assert_array_equal(outputs, sums(ROWS * number))


async def test_a_live_source_gets_each_output_before_its_next_row(fake: FakeServer) -> None:
    arrived = asyncio.Event()
    arrived.set()

    async def rows():
        for row in ROWS[:5]:
            await arrived.wait()  # waits for the output of the row before
            arrived.clear()
            yield row

    async with carousel.AsyncClient(fake.target) as client, client.session("sum") as session:
        outputs = []
        async for y in session.stream(rows()):
            outputs.append(y)
            arrived.set()
        np.testing.assert_array_equal(outputs, sums(ROWS[:5]))


async def test_a_source_that_fails_ends_the_stream(fake: FakeServer) -> None:
    async def rows():
        yield ROWS[0]
        raise RuntimeError("the sensor broke")

    async with carousel.AsyncClient(fake.target) as client, client.session("sum") as session:
        with pytest.raises(RuntimeError, match="sensor"):
            [y async for y in session.stream(rows())]
        assert (await session.step([1, 1]))[0] == 4
