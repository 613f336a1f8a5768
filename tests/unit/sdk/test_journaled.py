"""Sessions with a journal, by both clients: a program that is killed goes on where it was."""

from __future__ import annotations

import asyncio
import importlib
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import carousel
from carousel._journal_file import open_journal
from carousel.testing import FakeServer

from .support import MODELS, client_of, opened, sums

ROWS = np.arange(80, dtype=np.float32).reshape(40, 2) % 7
QUICK = carousel.RetryPolicy(first_delay_s=0.001)


@pytest.fixture
def durable() -> Iterator[FakeServer]:
    with FakeServer(*MODELS, chunk_steps=3, durable=True) as server:
        yield server


@pytest.fixture(params=["sync", "async"])
def make(request: pytest.FixtureRequest, durable: FakeServer) -> Iterator[Callable[..., Any]]:
    made = []
    with asyncio.Runner() as runner:

        def make_client(**options: Any) -> Any:
            options = {"timeout_s": 20.0, "retries": QUICK, **options}
            made.append(client_of(request.param, durable.target, runner, **options))
            return made[-1]

        yield make_client
        for client in made:
            client.close()


def test_a_session_that_is_refused_after_its_journal_was_opened_releases_it(
    make: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread or task closes the client between the two."""
    client = make()
    opened(client.session("sum")).close()
    wanted = "_sync" if isinstance(client, carousel.Client) else "_async"
    module = importlib.import_module(f"carousel.{wanted}.client")

    def opened_too_late(*arguments: Any, **options: Any) -> Any:
        journal = open_journal(*arguments, **options)
        core.close(carousel.ClientClosedError("the client was closed"))
        return journal

    core = getattr(client, "wrapped", client)._core
    monkeypatch.setattr(module, "open_journal", opened_too_late)
    with pytest.raises(carousel.ClientClosedError):
        opened(client.session("sum", journal=tmp_path / "j"))
    monkeypatch.undo()
    opened(make().session("sum", journal=tmp_path / "j")).close()


def test_a_second_life_goes_on(
    durable: FakeServer, make: Callable[..., Any], tmp_path: Path
) -> None:
    first = make()
    session = opened(first.session("sum", journal=tmp_path / "j"))
    session.steps(ROWS[:5])
    session.step(ROWS[5])
    name = session.id
    first.close()  # as good as a crash: nothing of the session is told to the server
    durable.crash()
    second = make(journal_fsync=True)
    again = opened(second.session("sum", journal=str(tmp_path / "j")))
    assert again.id == name
    assert (again.submitted, again.applied, again.unread) == (6, 6, 1)
    np.testing.assert_array_equal(again.replay(), sums(ROWS[:6])[5:])
    assert again.unread == 0
    rest = again.steps(ROWS[6:])
    np.testing.assert_array_equal(rest, sums(ROWS)[6:])
    again.close()
    assert durable.sessions() == []
    third = opened(make().session("sum", journal=tmp_path / "j"))  # the old one was closed
    assert third.id != name
    assert (third.submitted, third.unread) == (0, 0)


def test_inputs_that_never_arrived_are_sent_by_the_next_life(
    durable: FakeServer, make: Callable[..., Any], tmp_path: Path
) -> None:
    first = make()
    session = opened(first.session("sum", session_id="s", journal=tmp_path / "j"))
    session.step(ROWS[0])
    with durable.paused():
        with pytest.raises(carousel.ReplyTimeoutError):
            session.steps(ROWS[1:4], timeout_s=0.05)
        durable.break_streams()  # what waits at the gate is lost
        first.close()
    again = opened(make().session("sum", session_id="s", journal=tmp_path / "j"))
    assert again.submitted == 4
    np.testing.assert_array_equal(again.replay(), sums(ROWS[:4])[1:])
    assert again.step(ROWS[4])[0] == sums(ROWS)[4][0]


def test_a_detached_session_is_attached_with_its_journal(
    make: Callable[..., Any], tmp_path: Path
) -> None:
    client = make()
    with client.session("sum", session_id="s", journal=tmp_path / "j") as session:
        list(session.stream(iter(ROWS[:7])))
        session.detach()
        with client.attach("s", journal=tmp_path / "j") as again:
            assert again.unread == 0  # leaving said that all had been taken
            assert again.step(ROWS[7])[0] == sums(ROWS)[7][0]


def test_one_session_has_one_journal(make: Callable[..., Any], tmp_path: Path) -> None:
    client = make()
    with client.session("sum", journal=tmp_path / "j") as session:
        session.step(ROWS[0])
        with pytest.raises(carousel.JournalError, match="in use"):
            opened(client.session("sum", journal=tmp_path / "j"))
        session.detach()
        with pytest.raises(carousel.JournalError, match="journal is that of"):
            opened(client.session("letters", journal=tmp_path / "j"))
        with pytest.raises(carousel.JournalError, match="journal is that of"):
            opened(client.session("sum", session_id="other", journal=tmp_path / "j"))


def test_breaks_do_not_disturb_a_journal(
    durable: FakeServer, make: Callable[..., Any], tmp_path: Path
) -> None:
    client = make()
    with client.session("sum", journal=tmp_path / "j") as session:
        outputs = []
        for place, row in enumerate(ROWS):
            outputs.append(session.step(row))
            if place % 10 == 3:
                durable.crash()
        np.testing.assert_array_equal(outputs, sums(ROWS))


def test_a_close_that_the_server_never_heard_is_made_good(
    durable: FakeServer, make: Callable[..., Any], tmp_path: Path
) -> None:
    first = make()
    session = opened(first.session("sum", session_id="s", journal=tmp_path / "j"))
    session.step(ROWS[0])
    durable.inject("Attach", "TOO_MANY_STREAMS", times=30, retry_after_s=0.05)
    durable.break_streams()
    calls = getattr(first, "wrapped", first)._calls
    object.__setattr__(calls.options, "timeout_s", 0.05)
    with pytest.raises(carousel.ReplyTimeoutError):
        session.close()
    first.close()
    patient = make(retries=carousel.RetryPolicy(attempts=100, first_delay_s=0.001, max_delay_s=0.1))
    again = opened(patient.session("sum", session_id="s", journal=tmp_path / "j"))
    assert again.submitted == 0
    assert again.step(ROWS[1])[0] == ROWS[1].sum()  # it begins anew


PROGRAM = """
import sys
import carousel

target, journal, told = sys.argv[1:]
with carousel.Client(target, retries=carousel.RetryPolicy(first_delay_s=0.001)) as client:
    session = client.session("sum", session_id="s", journal=journal)
    with open(told, "a") as log:
        def tell(seq, y):
            log.write(f"{seq} {y[0]:.0f}\\n")
            log.flush()

        first = session.submitted - session.unread + 1
        for seq, y in enumerate(session.replay(), first):
            tell(seq, y)
        print("ready", flush=True)
        while session.submitted < 2_000:
            y = session.step([session.submitted % 5, 1])
            tell(session.submitted, y)
        session.detach()
print("done", flush=True)
"""


def test_kill_minus_nine_of_a_client_loses_and_repeats_no_input(
    durable: FakeServer, tmp_path: Path
) -> None:
    rng = random.Random(1)
    journal, told = tmp_path / "j", tmp_path / "told"
    command = [sys.executable, "-c", PROGRAM, durable.target, str(journal), str(told)]
    for kill in (True, True, True, False):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        if kill:
            count = len(told.read_text().splitlines()) + rng.randint(1, 200)
            while len(told.read_text().splitlines()) < count:
                assert process.poll() is None
            process.send_signal(signal.SIGKILL)
            durable.crash()
        process.wait(60)
        process.stdout.close()
    expected = sums([[seq % 5, 1] for seq in range(2_000)])[:, 0]
    lines = [line.split() for line in told.read_text().splitlines()]
    seqs = [int(seq) for seq, _ in lines]
    assert sorted(set(seqs)) == list(range(1, 2_001))
    assert len(seqs) - 2_000 <= 3  # at most the output at each kill is told twice
    assert all(float(y) == expected[int(seq) - 1] for seq, y in lines)
    assert durable.sessions()[0].applied == 2_000
