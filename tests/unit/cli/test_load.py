"""The load of `carousel bench`: its plan, its pace, and what it counts."""

from __future__ import annotations

import asyncio
import math
import multiprocessing
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import carousel
from carousel import testing
from carousel.cli.commands.bench import deadline_of, searched
from carousel.cli.exits import CliError
from carousel.cli.load.clients import ClientEndedError, Target, measure, share
from carousel.cli.load.plan import Load, Result, Sample
from carousel.cli.load.streams import INPUTS, UNANSWERED, Streams, random_rows

LOAD = Load("echo", 6, 50.0, duration_s=0.2, warm_s=0.1, deadline_s=5.0)
INFO = SimpleNamespace(
    vocabulary=0, input=SimpleNamespace(shape=(3,), dtype="<f4"), name="echo", causal=True
)


class Group:
    """Stands for an AsyncBatch. `answer` is awaited for each step."""

    def __init__(self, size, answer):
        self.sessions = [object()] * size
        self.rows = []
        self._answer = answer

    async def step(self, rows):
        self.rows.append(rows)
        await self._answer(len(self.rows))


async def at_once(_step):
    """Answers without a wait."""


async def never(_step):
    await asyncio.Event().wait()


def test_streams_are_shared_among_clients_as_whole_groups():
    load = Load("m", 10, 1.0, together=3, clients=2)
    assert (load.sizes(0), load.sizes(1)) == ([3, 3], [3, 1])
    assert sum(load.sizes(0) + load.sizes(1)) == 10
    assert (load.offset_s(0), load.offset_s(1)) == (0.0, 0.5)


@pytest.mark.parametrize("answer", [at_once, never])
async def test_a_paced_load_sends_what_is_due_whether_or_not_outputs_come(answer):
    groups = [Group(2, answer) for _ in range(3)]
    streams = Streams(groups, INFO, replace(LOAD, deadline_s=0.01), 0)
    await streams.paced(50.0)
    # 0.3 s at 50 Hz are 15 steps of each group, of which the last 10 are measured.
    assert [len(group.rows) for group in groups] == [15, 15, 15]
    assert streams.sample.due == 10 * 6
    answered = len(streams.sample.latencies_s)
    assert answered + streams.sample.errors[UNANSWERED] == 60
    assert answered == (60 if answer is at_once else 0)


async def test_a_latency_counts_from_the_planned_instant_not_from_the_sending():
    """A server that blocks the loop delays the sending too. The delay is part of the latency."""
    blocked = asyncio.Event()

    async def blocks(step):
        if step == 8 and not blocked.is_set():
            blocked.set()
            threading.Event().wait(0.06)  # the whole process stands still

    streams = Streams([Group(1, blocks)], INFO, LOAD, 0)
    await streams.paced(100.0)
    assert max(streams.sample.late_s) >= 0.03
    assert max(streams.sample.latencies_s) >= max(streams.sample.late_s)


async def test_a_closed_load_has_one_step_of_each_group_in_flight():
    in_flight, most = Counter(), Counter()

    def answer_of(group):
        async def answer(_step):
            in_flight[group] += 1
            most[group] = max(most[group], in_flight[group])
            await asyncio.sleep(0.001)
            in_flight[group] -= 1

        return answer

    groups = [Group(1, answer_of(number)) for number in range(3)]
    streams = Streams(groups, INFO, replace(LOAD, rate_hz=None, deadline_s=None), 0)
    await streams.closed()
    assert most == {0: 1, 1: 1, 2: 1}
    assert streams.sample.due == len(streams.sample.latencies_s) > 0


async def test_each_refused_session_is_counted_by_its_reason():
    full = carousel.RefusedError("full", reason="QUEUE_FULL")

    async def refuses(step):
        if step % 2:
            raise carousel.BatchStepError({1: full}, np.zeros((2, 1)))
        raise full

    streams = Streams([Group(2, refuses)], INFO, LOAD, 0)
    await streams.paced(50.0)
    result = Result(LOAD, streams.sample)
    # Of 10 measured messages of 2 sessions, 5 lose one and 5 lose both.
    assert streams.sample.errors == {"QUEUE_FULL": 15}
    assert (result.missed, result.holds) == (15, False)


def test_a_result_counts_late_and_absent_outputs_as_missed():
    sample = Sample([0.001] * 97 + [0.05, 0.05], [0.0], 100, Counter())
    result = Result(replace(LOAD, deadline_s=0.032), sample)
    assert result.missed == 3
    assert not result.holds
    record = result.record()
    assert (record["steps"], record["missed_share"], record["deadline_ms"]) == (99, 0.03, 32.0)
    assert record["p50_ms"] == pytest.approx(1.0)
    assert record["max_ms"] == pytest.approx(50.0)
    good = Result(replace(LOAD, deadline_s=0.06), sample)
    assert (good.missed, good.holds) == (1, True)


def test_a_result_without_outputs_never_holds_a_deadline():
    result = Result(LOAD, Sample([], [], 5, Counter({UNANSWERED: 5})))
    assert result.p99_s == math.inf
    assert (result.missed, result.holds) == (5, False)
    assert math.isnan(result.record()["p99_ms"])


def test_clients_that_are_late_themselves_are_reported():
    sample = Sample([0.02] * 10, [0.011] * 10, 10, Counter())
    assert Result(replace(LOAD, deadline_s=0.04), sample).client_is_late
    assert not Result(replace(LOAD, deadline_s=0.4), sample).client_is_late


@pytest.mark.parametrize("capacity", [1, 5, 16, 100, 777])
def test_the_search_ends_next_to_the_greatest_load_that_holds(capacity):
    def measured(load):
        late = load.streams > capacity
        return Result(load, Sample([9.0 if late else 0.001], [], 1, Counter()))

    runs = list(searched(replace(LOAD, streams=4), measured))
    best = max((run.load.streams for run in runs if run.holds), default=0)
    least_failed = min(run.load.streams for run in runs if not run.holds)
    assert best <= capacity < least_failed
    assert least_failed <= max(best * 1.1, best + 1)


def test_the_deadline_is_one_period_unless_it_is_given():
    assert deadline_of(None, None) is None
    assert deadline_of(31.25, None) == 0.032
    assert deadline_of(31.25, 10.0) == 0.01
    for rate in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(CliError, match="no rate"):
            deadline_of(rate, None)


def test_inputs_are_of_the_models_type():
    rng = np.random.default_rng(0)
    tokens = SimpleNamespace(vocabulary=7, input=SimpleNamespace(shape=(), dtype="<i4"))
    rows = random_rows(tokens, rng, 2)
    assert rows.shape == (INPUTS, 2)
    assert (rows.min(), rows.max()) == (0, 6)
    sound = SimpleNamespace(vocabulary=0, input=SimpleNamespace(shape=(4,), dtype="<i2"))
    assert random_rows(sound, rng, 2).dtype == np.int16
    floats = random_rows(INFO, rng, 2)
    assert (floats.shape, floats.dtype) == ((INPUTS, 2, 3), np.float32)


def _echo(x, state):
    return x, state


ECHO = testing.FakeModel("echo", _echo, features=3, outputs=3, initial=None)


def test_sessions_of_a_real_client_are_opened_stepped_and_closed():
    with testing.FakeServer(ECHO) as fake:
        target = Target(fake.target, None, None)
        sample = share(target, replace(LOAD, together=2), 0, lambda: None)
        assert (sample.due, len(sample.latencies_s), sample.errors) == (60, 60, Counter())
        assert fake.sessions() == []


def test_several_processes_send_together():
    with testing.FakeServer(ECHO) as fake:
        result = measure(Target(fake.target, None, None), replace(LOAD, clients=2))
        assert (result.sample.due, result.missed) == (60, 0)
        assert fake.sessions() == []


def test_a_client_that_cannot_open_its_sessions_ends_all_of_them():
    with testing.FakeServer(ECHO) as fake:
        target = Target(fake.target, None, None)
        with pytest.raises(carousel.ModelNotFoundError):
            measure(target, replace(LOAD, model="none", clients=2))
        assert fake.sessions() == []


INTERRUPTED = """
import sys
from carousel.cli.load.clients import Target, measure
from carousel.cli.load.plan import Load

if __name__ == "__main__":
    load = Load("echo", 6, 50.0, clients=int(sys.argv[2]), duration_s=600.0)
    try:
        measure(Target(sys.argv[1], None, None), load)
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.mark.parametrize(
    ("clients", "number"), [(1, signal.SIGINT), (1, signal.SIGTERM), (2, signal.SIGINT)]
)
def test_sessions_are_closed_when_it_is_interrupted(tmp_path, clients, number):
    """The processes of clients end because the first one tells them to."""
    script = tmp_path / "bench.py"
    script.write_text(INTERRUPTED)
    with testing.FakeServer(ECHO) as fake:
        process = subprocess.Popen([sys.executable, script, fake.target, str(clients)])
        while sum(each.applied > 0 for each in fake.sessions()) < 6:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        assert process.wait(60) == 130
        assert fake.sessions() == []


def test_a_process_of_clients_that_is_killed_ends_the_run():
    """The others do not wait for it, and close their sessions."""
    failed = []

    def run(target):
        try:
            measure(target, replace(LOAD, clients=2, duration_s=600.0))
        except ClientEndedError as error:
            failed.append(error)

    with testing.FakeServer(ECHO) as fake:
        thread = threading.Thread(target=run, args=(Target(fake.target, None, None),))
        thread.start()
        while sum(each.applied > 0 for each in fake.sessions()) < 6:
            time.sleep(0.01)
        victim, other = multiprocessing.active_children()
        victim.kill()
        thread.join(60)
        assert len(failed) == 1
        assert not other.is_alive()
        assert len(fake.sessions()) == 3
