"""An asyncio client may be made anywhere; it belongs to the loop that uses it first."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import carousel
from carousel.testing import FakeServer

from .support import sums

ROW = [1, 2]
PROGRAM = """
import asyncio, sys
import carousel
client = carousel.AsyncClient(sys.argv[1])
async def use():
    async with client.session("sum") as session:
        print((await session.step([1, 2])).tolist())
    await client.close()
asyncio.run(use())
"""


@pytest.fixture
def loops(fake: FakeServer) -> Any:
    """Two runners; gRPC's news for a loop that is closed is passed over."""
    runners = [asyncio.Runner(), asyncio.Runner()]
    for runner in runners:
        runner.get_loop().set_exception_handler(lambda *_: None)
    yield runners
    for runner in runners:
        runner.close()


def test_a_client_made_at_import_time_works(fake: FakeServer) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, fake.target],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[3.0, 1.0]\n", "")


def test_a_client_that_was_never_used_can_be_closed(fake: FakeServer) -> None:
    client = carousel.AsyncClient(fake.target)
    asyncio.run(client.close())
    with pytest.raises(carousel.ClientClosedError):
        asyncio.run(client.models())


def test_every_call_in_a_second_loop_is_refused_by_name(
    fake: FakeServer, loops: list[asyncio.Runner]
) -> None:
    client = carousel.AsyncClient(fake.target, timeout_s=600)
    first, second = loops

    async def begin() -> tuple[Any, Any]:
        session = await client.session("sum")
        generation = client.generate("letters", "a", max_tokens=1_000_000)
        await anext(generation)
        return session, generation

    session, generation = first.run(begin())

    async def entered() -> None:
        async with client:
            pass

    async def streamed() -> None:
        async for _ in session.stream([ROW]):
            pass

    calls: list[Callable[[], Awaitable[Any]]] = [
        client.models,
        client.health,
        entered,
        streamed,
        lambda: client.infer("sum", [ROW]),
        lambda: session.step(ROW),
        lambda: client.batch([session]).step([ROW]),
        lambda: anext(generation),
        lambda: session.generate("a").text(),
        lambda: client.generate("letters", "a").text(),
        session.replay,
        session.info,
        session.detach,
        session.close,
        client.close,
    ]

    async def call(made: Callable[[], Awaitable[Any]]) -> Any:
        return await made()

    for made in calls:
        with pytest.raises(carousel.EventLoopError, match="another event loop") as caught:
            second.run(call(made))
        assert isinstance(caught.value, RuntimeError)
        assert "asyncio.run" in str(caught.value)

    async def end() -> Any:
        output = await session.step(ROW)
        await client.close()
        return output

    assert first.run(end()).tolist() == sums([ROW])[0].tolist()


def test_a_client_of_its_own_works_in_each_loop(
    fake: FakeServer, loops: list[asyncio.Runner]
) -> None:
    async def use() -> list[float]:
        async with carousel.AsyncClient(fake.target) as client, client.session("sum") as session:
            return list(await session.step(ROW))

    assert [runner.run(use()) for runner in loops] == [[3, 1], [3, 1]]
