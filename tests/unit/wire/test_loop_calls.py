"""Calls from engine threads to the loop: in order, many in one turn, none lost."""

from __future__ import annotations

import asyncio
import threading

import pytest

from carousel_server.wire.loop_calls import calls_of


class CountingLoop:
    """Keeps what is asked of it."""

    def __init__(self) -> None:
        self.asked = []

    def call_soon_threadsafe(self, callback):
        self.asked.append(callback)

    def turn(self):
        asked, self.asked = self.asked, []
        for callback in asked:
            callback()


def test_calls_of_one_tick_ask_the_loop_once_and_keep_their_order():
    loop, ran = CountingLoop(), []
    calls = calls_of(loop)
    for i in range(5):
        calls.put(ran.append, i)
    assert len(loop.asked) == 1
    loop.turn()
    assert ran == [0, 1, 2, 3, 4]
    assert not loop.asked


def test_a_call_that_a_call_makes_waits_for_the_next_turn():
    loop, ran = CountingLoop(), []
    calls = calls_of(loop)
    calls.put(calls.put, ran.append, 1)
    loop.turn()
    assert ran == []
    loop.turn()
    assert ran == [1]


def test_an_error_is_raised_to_the_loop_and_the_calls_behind_it_run_in_the_next_turn():
    loop, ran = CountingLoop(), []
    calls = calls_of(loop)
    calls.put([].index, 7)
    calls.put(ran.append, 1)
    with pytest.raises(ValueError, match="7 is not in list"):
        loop.turn()
    loop.turn()
    assert ran == [1]


async def test_many_threads_lose_nothing():
    calls, ran, each, all_ran = calls_of(asyncio.get_running_loop()), [], 2000, asyncio.Event()

    def run(what):
        ran.append(what)
        if len(ran) == 4 * each:
            all_ran.set()

    def tell(thread):
        for i in range(each):
            calls.put(run, (thread, i))

    threads = [threading.Thread(target=tell, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    await asyncio.wait_for(all_ran.wait(), 60)
    for n in range(4):
        assert [i for thread, i in ran if thread == n] == list(range(each))


async def test_a_loop_has_one_and_one_that_has_ended_takes_calls_and_runs_none():
    calls = calls_of(asyncio.get_running_loop())
    assert calls_of(asyncio.get_running_loop()) is calls
    ended = asyncio.new_event_loop()
    ended.close()
    late, ran = calls_of(ended), []
    assert late is not calls
    late.put(ran.append, 1)
    assert ran == []
