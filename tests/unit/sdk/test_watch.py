"""A lost server is told once in the SDK's log, and once more when it is found; the command writes it."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from typing import IO, Any

import pytest

import carousel
from carousel._watch import ServerWatch
from carousel.testing import FakeServer

from .support import opened

LOST = carousel.ServerUnreachableError("Connection refused")
HOST = "host:1"
QUICK = carousel.RetryPolicy(first_delay_s=0.001)
COMMAND = "from carousel.cli.main import main; main()"


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Callable[[], list[tuple[str, str]]]:
    caplog.set_level(logging.INFO, logger="carousel")
    return lambda: [
        (record.levelname, record.getMessage().partition(" at ")[0])
        for record in caplog.records
        if record.name == "carousel"
    ]


ONCE = [("WARNING", "lost the server"), ("INFO", "found the server")]


def test_each_change_is_told_once(log: Any) -> None:
    watch = ServerWatch()
    watch.looking(LOST, HOST)
    assert log() == [], "a server that never answered was not lost"
    for _ in range(2):
        watch.answered(HOST)
    for _ in range(3):
        watch.looking(LOST, HOST)
    for _ in range(2):
        watch.answered(HOST)
    assert log() == ONCE
    watch.looking(carousel.QueueFullError("busy"), HOST)
    assert log() == ONCE, "a server that refuses is there"


def test_the_message_names_server_and_cause(caplog: pytest.LogCaptureFixture) -> None:
    watch = ServerWatch()
    watch.answered(HOST)
    watch.looking(LOST, HOST)
    assert "host:1" in caplog.text
    assert "Connection refused" in caplog.text


def test_many_sessions_of_a_client_tell_it_once(
    fake: FakeServer, make_client: Callable[..., Any], log: Any
) -> None:
    client = make_client(timeout_s=20.0, retries=QUICK)
    sessions = [opened(client.session("sum")) for _ in range(5)]
    for session in sessions:
        session.step([1, 1])
    fake.inject("Attach", "DRAINING", times=2)
    fake.break_streams()
    for session in sessions:
        assert session.step([1, 1])[0] == 4
    assert log() == ONCE


def test_a_text_tells_it_too(fake: FakeServer, make_client: Callable[..., Any], log: Any) -> None:
    client = make_client(timeout_s=20.0, retries=QUICK)
    generation = client.generate("letters", "a", max_tokens=20_000, seed=7)
    next(iter(generation))
    fake.break_streams()
    assert len(generation.text()) > 10_000
    assert log() == ONCE


def test_a_library_is_silent_by_itself(fake: FakeServer) -> None:
    program = (
        "import sys, carousel\n"
        "with carousel.Client(sys.argv[1]) as client, client.session('sum') as session:\n"
        "    print(session.step([1, 1]), flush=True); input(); print(session.step([1, 1]))\n"
    )
    with started([sys.executable, "-c", program, fake.target]) as process:
        assert lines(process.stdout)
        fake.break_streams()
        assert process.communicate("\n", timeout=60)[1] == ""


def started(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def lines(stream: IO[str] | None, count: int = 1) -> list[str]:
    assert stream is not None
    return [stream.readline() for _ in range(count)]


def test_the_command_says_so_on_stderr(fake: FakeServer) -> None:
    arguments = ["stream", "sum", "-", "--server", fake.target]
    with started([sys.executable, "-c", COMMAND, *arguments]) as process:
        assert process.stdin is not None
        process.stdin.write("1,1\n")
        process.stdin.flush()
        lines(process.stdout, 2)  # a header and a row
        fake.break_streams()
        rest, told = process.communicate("1,1\n", timeout=60)
    assert process.returncode == 0, told
    assert rest == "2,4,1\n"
    lost, found = told.splitlines()
    assert lost.startswith(f"carousel: lost the server at {fake.target} and looking for it: ")
    assert found.startswith(f"carousel: found the server at {fake.target} again after ")
