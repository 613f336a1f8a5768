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

    def message(self) -> asyncio.Future[None] | None:
        self.pace.write()
        return self.pace.rest()

    def passes(self, now_s: float, busy_s: float = 0.0) -> None:
        self.now_s += now_s
        self.busy_s += busy_s


@pytest.mark.parametrize("busy_s", [0.0002, 0.001])  # with its own messages, or with others' work
async def test_a_stream_whose_tokens_take_longer_than_a_round_never_rests(busy_s: float) -> None:
    times = Times()
    for _ in range(100):
        times.passes(0.001, busy_s)
        assert times.message() is None


async def test_the_streams_of_a_busy_loop_rest_until_the_round_is_over() -> None:
    times = Times()
    resting = []
    for _ in range(50):
        times.passes(0.0004, busy_s=0.0002)
        resting.append(times.message())
    first = next(i for i, future in enumerate(resting) if future is not None)
    assert 0 < first < 10
    waiting = [future for future in resting[first:] if future is not None]
    assert len(waiting) == 50 - first
    times.passes(4 * 0.01 - 0.02 - 0.001)
    await asyncio.sleep(0.12)
    assert not any(
        future.done() for future in waiting
    )  # it was looked, but a millisecond is missing
    times.passes(0.001)
    await asyncio.wait_for(asyncio.gather(*waiting), 10)


async def test_streams_that_all_write_before_the_first_has_written_rest_too() -> None:
    times = Times()
    for _ in range(50):
        times.pace.write()
    times.passes(0.01, busy_s=0.01)
    assert times.pace.rest() is not None


@pytest.mark.parametrize("longest_s", [0.0, 0.05])
async def test_a_round_takes_no_longer_than_is_allowed(longest_s: float) -> None:
    times = Times(longest_s)
    for _ in range(200):
        times.passes(0.0, busy_s=0.0002)
        resting = times.message()
    assert (resting is None) == (longest_s == 0.0)
    times.passes(longest_s, busy_s=longest_s)
    if resting is not None:
        await asyncio.wait_for(resting, 10)


async def test_who_leaves_does_not_wake_the_others() -> None:
    times = Times()
    for _ in range(50):
        times.passes(0.0, busy_s=0.0002)
        times.message()
    gone, woken, stays = (times.message() for _ in range(3))
    assert gone is not None
    assert woken is not None
    assert stays is not None
    gone.cancel()
    woken.set_result(None)
    await asyncio.sleep(0.05)
    assert not stays.done()
    times.passes(0.1)
    await asyncio.wait_for(stays, 10)
