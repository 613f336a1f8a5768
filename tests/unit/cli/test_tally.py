import threading
import time

from carousel.cli.demo.tally import Tally


def test_a_report_holds_what_came_since_the_one_before():
    tally = Tally()
    tally.unit(time.monotonic(), "a")
    tally.unit(None, "b")
    first = tally.take()
    assert (first.units, first.latencies.count, first.text) == (2, 1, "ab")
    tally.unit()
    second = tally.take()
    assert (second.units, second.latencies.count, second.text) == (1, 0, "")


def test_sessions_are_a_level_not_a_count():
    tally = Tally()
    with tally.session(), tally.session():
        assert tally.take().sessions == 2
        assert tally.take().sessions == 2
    assert tally.take().sessions == 0


def test_the_first_failure_stops_all_and_is_kept():
    tally = Tally()
    assert not tally.stop.is_set()
    tally.fail("first")
    tally.fail("second")
    assert tally.stop.is_set()
    assert tally.take().error == "first"


def test_no_unit_of_any_thread_is_lost():
    tally = Tally()

    def work():
        for _ in range(500):
            tally.unit(0.0)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    units = 0
    while any(thread.is_alive() for thread in threads):
        units += tally.take().units
    for thread in threads:
        thread.join()
    assert units + tally.take().units == 2000
