"""What front ends tell of their calls: once, with the loop's lag, and levels added up."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from support.fake_engine import CountingMetrics

from carousel_server.link.meters import PostedMetrics, SharedMetrics


def test_calls_are_collected_and_sent_with_the_loops_lag():
    sent: list[tuple[Any, ...]] = []
    metrics = PostedMetrics(lambda *message: sent.append(message), lambda verb: Future())
    metrics.flush()
    metrics.started("s", "m", "unary")
    metrics.handled("s", "m", "unary", "OK", 0.5)
    metrics.refused("DRAINING", 3)
    metrics.streams(2)
    assert not sent
    metrics.loop_lag(0.01)
    told = [
        ("started", ("s", "m", "unary")),
        ("handled", ("s", "m", "unary", "OK", 0.5)),
        ("refused", ("DRAINING", 3)),
        ("streams", (2,)),
        ("loop_lag", (0.01,)),
    ]
    assert sent == [("metered", told)]
    metrics.flush()
    assert len(sent) == 1


def test_streams_of_several_front_ends_add_up_and_go_with_them():
    levels: list[int] = []

    class Levels(CountingMetrics):
        def streams(self, count: int) -> None:
            levels.append(count)

    metrics = Levels()
    shared = SharedMetrics(metrics)
    one, two = object(), object()
    shared.take(one, [("streams", (2,)), ("refused", ("DRAINING", 2))])
    shared.take(two, [("streams", (3,))])
    shared.take(one, [("streams", (0,))])
    shared.forget(two)
    assert levels == [2, 5, 3, 0]
    assert metrics.refusals == ["DRAINING", "DRAINING"]


def test_the_numbers_are_asked_of_the_process_that_has_them():
    answers = {"readings": Future()}
    metrics = PostedMetrics(lambda *message: None, answers.__getitem__)
    asked = metrics.readings()
    answers["readings"].set_result(SharedMetrics(CountingMetrics()).readings().result())
    assert asked.result().models == CountingMetrics().readings().result().models
