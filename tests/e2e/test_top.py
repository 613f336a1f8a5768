"""`carousel top` beside a real server: once, as JSON, in a pipe and on a terminal."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import pytest
from e2e.command import carousel, environment, started
from support.server import FEATURES, LSTM, ServerProcess, make_models

import carousel as sdk

GIVE_UP_S = 90


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(make_models(tmp_path_factory.mktemp("models")), store="memory") as running:
        yield running


def metrics(server: ServerProcess) -> str:
    return f"127.0.0.1:{server.metrics_port}"


def test_one_sample_as_json_has_every_model(server: ServerProcess) -> None:
    with sdk.Client(server.target) as client, client.session(LSTM) as session:
        session.step(np.zeros(FEATURES, np.float32))
        server.metrics_once(f'carousel_slots_used{{model="{LSTM}"}} 1.0')
        done = carousel("top", metrics(server), "--interval", "0.1", "-o", "json")
    assert (done.returncode, done.stderr) == (0, "")
    ((one,)) = json.loads(done.stdout)
    assert {model["model"] for model in one["view"]["models"]} == set(server.models)
    (lstm,) = (model for model in one["view"]["models"] if model["model"] == LSTM)
    assert lstm["sessions"] == 1
    assert one["view"]["memory_bytes"] > 1e6


def test_one_sample_as_a_table(server: ServerProcess) -> None:
    done = carousel("top", metrics(server), "--once", "--interval", "0.1")
    assert done.returncode == 0
    assert "steps/s" in done.stdout
    assert LSTM in done.stdout


def test_a_server_that_is_away_ends_with_exit_code_3(server: ServerProcess) -> None:
    done = carousel("top", metrics(server), "127.0.0.1:1", "--once", "--interval", "0.1")
    assert done.returncode == 3
    assert "no metrics at 127.0.0.1:1" in done.stderr
    assert LSTM in done.stdout


def test_a_port_without_metrics_is_away(server: ServerProcess) -> None:
    done = carousel("top", server.target, "--once", "--interval", "0.1")
    assert done.returncode == 3
    assert f"no metrics at {server.target}" in done.stderr


def test_a_pipe_gets_sample_after_sample_until_ctrl_c(server: ServerProcess) -> None:
    process = started("top", metrics(server), "--interval", "0.1")
    assert process.stdout is not None
    seen = 0
    for line in process.stdout:
        seen += line.startswith(f" {LSTM}")
        if seen == 3:
            break
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=GIVE_UP_S)
    assert (process.returncode, error) == (0, "")


def test_a_reader_that_leaves_ends_it_without_an_error(server: ServerProcess) -> None:
    process = started("top", metrics(server), "--interval", "0.1")
    assert process.stdout is not None
    assert process.stdout.readline()
    process.stdout.close()
    assert process.wait(GIVE_UP_S) == 0
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.stdin is not None
    process.stdin.close()


def test_a_terminal_is_redrawn_until_ctrl_c(server: ServerProcess) -> None:
    own, theirs = pty.openpty()
    command = [
        sys.executable,
        "-m",
        "carousel.cli.main",
        "top",
        metrics(server),
        "--interval",
        "0.1",
    ]
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        env=environment() | {"COLUMNS": "100", "LINES": "30", "TERM": "xterm"},
    )  # fmt: skip
    os.close(theirs)
    text, until_s = "", time.monotonic() + GIVE_UP_S
    interrupted = False
    while time.monotonic() < until_s:
        if not select.select([own], [], [], 1.0)[0]:
            continue
        try:
            text += os.read(own, 65_536).decode(errors="replace")
        except OSError:  # the terminal has no more users
            break
        if not interrupted and text.count("steps/s") >= 2:
            process.send_signal(signal.SIGINT)
            interrupted = True
    os.close(own)
    assert process.wait(GIVE_UP_S) == 0
    assert LSTM in text
    assert "\x1b[?25h" in text  # the cursor is shown again
    assert "Traceback" not in text
