"""Streams that rest between their messages: never where few write, together where many do."""

from __future__ import annotations

import asyncio

import pytest

from carousel_server.wire.pace import Pace


class Times:
    """What a loop's clocks say; its timers are real."""

    def __init__(self, longest_s: float = 0.2) -> None:
        self.now_s = self.busy_s = 0.0
        self.pace = Pace(longest_s, lambda: self.now_s, lambda: self.busy_s)

    def passes(self, now_s: float, busy_s: float = 0.0) -> None:
        self.now_s += now_s
        self.busy_s += busy_s

    async def rests(self) -> asyncio.Task[None]:
        task = asyncio.create_task(self.pace.rest())
        await asyncio.sleep(0)
        return task


async def test_a_stream_whose_tokens_take_longer_than_a_round_never_rests() -> None:
    times = Times()
    for _ in range(100):
        times.passes(0.001, busy_s=0.0002)
        assert (await times.rests()).done()


async def test_the_streams_of_a_busy_loop_rest_until_the_round_is_over() -> None:
    times = Times()
    resting = []
    for _ in range(50):
        times.passes(0.0005, busy_s=0.0004)
        resting.append(await times.rests())
    first = [task.done() for task in resting].index(False)
    assert 0 < first < 10
    assert not any(task.done() for task in resting[first:])
    times.passes(4 * 0.02 - 0.025 - 0.001)
    await asyncio.sleep(0.12)
    assert not resting[-1].done()  # it is looked, but a millisecond is missing
    times.passes(0.001)
    await asyncio.wait_for(asyncio.gather(*resting), 10)


@pytest.mark.parametrize("longest_s", [0.0, 0.05])
async def test_a_round_takes_no_longer_than_is_allowed(longest_s: float) -> None:
    times = Times(longest_s)
    times.passes(0.01, busy_s=0.01)
    task = await times.rests()
    assert task.done() == (longest_s == 0.0)
    times.passes(longest_s, busy_s=longest_s)
    await asyncio.wait_for(task, 10)


async def test_who_leaves_does_not_wake_the_others() -> None:
    times = Times()
    times.passes(0.01, busy_s=0.01)
    gone, stays = await times.rests(), await times.rests()
    gone.cancel()
    await asyncio.sleep(0.05)
    assert not stays.done()
    times.passes(0.03)
    await asyncio.wait_for(stays, 10)
