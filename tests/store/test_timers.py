"""Pauses on the store's thread: in order, each once, and none for ever."""

from __future__ import annotations

import math

from carousel_server.core.errors import CarouselError
from carousel_server.store.memory import MemoryStore
from carousel_server.store.thread import StoreThread
from carousel_server.store.timers import Timers

NOW = [0.0]


def test_pauses_end_in_order_when_they_are_due() -> None:
    timers, ended = Timers(lambda: NOW[0]), list[str]()
    assert timers.due_s == math.inf
    for name, delay_s in (("late", 2.0), ("soon", 1.0), ("too", 1.0)):
        timers.add(delay_s).add_done_callback(lambda _, name=name: ended.append(name))
    assert timers.due_s == NOW[0] + 1.0
    timers.run()
    assert ended == []
    NOW[0] += 1.0
    timers.run()
    assert ended == ["soon", "too"]
    NOW[0] += 1.0
    timers.run()
    assert ended == ["soon", "too", "late"]


def test_one_that_begins_another_is_no_deadlock() -> None:
    timers, begun = Timers(lambda: NOW[0]), list[object]()
    timers.add(0.0).add_done_callback(lambda _: begun.append(timers.add(0.0)))
    timers.run()
    assert len(begun) == 1


def test_none_waits_for_ever() -> None:
    timers, error = Timers(lambda: NOW[0]), CarouselError("STORE_UNAVAILABLE", "it ends")
    before = timers.add(9.0)
    timers.close(error)
    assert before.exception(timeout=0) is error
    assert timers.add(0.0).exception(timeout=0) is error


def test_the_thread_wakes_for_a_pause() -> None:
    thread = StoreThread(MemoryStore())
    thread.start()
    thread.later(0.01).result(timeout=30)
    waiting = thread.later(3600.0)
    thread.stop()
    assert isinstance(waiting.exception(timeout=30), CarouselError)
