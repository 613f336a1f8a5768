"""A server whose wire is in processes of its own: the same to clients, whatever dies."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from support.server import FEATURES, GRU_BYTES, LSTM, ServerProcess

import carousel

ROWS = np.random.default_rng(5).standard_normal((400, FEATURES)).astype(np.float32)
GENERATED = (
    'grpc_server_handled_total{{grpc_code="OK",grpc_method="Generate",'
    'grpc_service="carousel.v1.InferenceService",grpc_type="server_stream"}} {}.0'
)
SHORT_LIFE_S = 5.0
"""As in front_ends.py: one that dies sooner ends the server."""


def stat(pid: int) -> list[str]:
    """A process's state, its parent, and more; see proc_pid_stat(5)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def front_ends(server: ServerProcess) -> list[int]:
    """The process ids of a server's front ends."""
    found = []
    for pid in [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]:
        with suppress(FileNotFoundError, ProcessLookupError):
            if int(stat(pid)[1]) == server.process.pid:
                found.append(pid)
    return found


def gone(pid: int) -> bool:
    try:
        return stat(pid)[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def eventually(condition: Callable[[], object], within_s: float = 20.0) -> None:
    give_up = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def steps(client: carousel.Client, count: int = 20) -> np.ndarray:
    with client.session(LSTM) as session:
        return np.stack([session.step(row) for row in ROWS[:count]])


@pytest.fixture(scope="module")
def expected(models_dir: Path) -> np.ndarray:
    with (
        ServerProcess(models_dir, slots=16, strict=True, front_ends=0) as server,
        carousel.Client(server.target) as client,
    ):
        return steps(client, len(ROWS))


@pytest.mark.parametrize("count", [1, 2])
def test_clients_see_no_difference(models_dir, expected, count):
    with ServerProcess(models_dir, slots=16, strict=True, front_ends=count) as server:
        assert len(front_ends(server)) == count
        for _ in range(4):  # each with a connection of its own, to whichever front end
            with carousel.Client(server.target) as client:
                assert np.array_equal(steps(client), expected[:20])
                text = "".join(
                    t.text for t in client.generate(GRU_BYTES, "ab", seed=1, max_tokens=9)
                )
                assert text
                with pytest.raises(carousel.ModelNotFoundError, match="did you mean"):
                    client.session("lstmm")
        server.metrics_once(GENERATED.format(4))
        processes = front_ends(server)
    assert all(map(gone, processes))
    assert "Traceback" not in server.text


def test_a_session_of_one_front_end_is_found_through_another(models_dir, expected):
    with ServerProcess(models_dir, slots=16, strict=True, front_ends=2) as server:
        outputs = []
        for at in range(0, 40, 5):  # again and again on a new connection
            with carousel.Client(server.target) as client:
                session = (
                    client.session(LSTM, session_id="moved") if not at else client.attach("moved")
                )
                outputs += [session.step(row) for row in ROWS[at : at + 5]]
                session.detach()
        assert np.array_equal(np.stack(outputs), expected[:40])


def test_a_front_end_that_dies_is_replaced_and_no_step_is_lost(models_dir, expected):
    """Even of sessions that no store keeps: their state is not where the wire is."""
    with ServerProcess(models_dir, slots=16, strict=True, front_ends=1) as server:
        (first,) = front_ends(server)
        time.sleep(SHORT_LIFE_S)
        with carousel.Client(server.target) as client:
            session = client.session(LSTM, durability="none")
            outputs = []
            for number, row in enumerate(ROWS):
                if number == 100:
                    os.kill(first, signal.SIGKILL)
                outputs.append(session.step(row))
            session.close()
        assert np.array_equal(np.stack(outputs), expected)
        assert front_ends(server) != [first]
        assert "another is started" in server.text
        server.metrics_once("carousel_attach_streams 0.0")
        server.metrics_once("carousel_front_end_restarts_total 1.0")


def test_a_front_end_that_dies_at_once_ends_the_server(models_dir):
    with ServerProcess(models_dir, slots=16, front_ends=1) as server:
        os.kill(front_ends(server)[0], signal.SIGKILL)
        assert server.wait() == 1
    assert "a front end ended with code -9 soon after its start" in server.text


def test_front_ends_end_with_the_process_that_has_the_engines(models_dir):
    with ServerProcess(models_dir, slots=16, front_ends=2) as server:
        processes = front_ends(server)
        server.signal(signal.SIGKILL)
        server.wait()
        eventually(lambda: all(map(gone, processes)))
        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind(("127.0.0.1", server.port))


def test_signals_are_for_the_server(models_dir):
    """Ctrl-C reaches every process of a terminal, and systemd tells all of a service."""
    with ServerProcess(models_dir, slots=16, front_ends=1) as server:
        (front_end,) = front_ends(server)
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(front_end, number)
        with carousel.Client(server.target) as client:
            assert len(steps(client, 3)) == 3
        server.signal(signal.SIGINT)
        assert server.wait() == 0
    assert gone(front_end)


@pytest.mark.slow
def test_a_front_end_that_does_not_move_holds_nothing_up(models_dir):
    with ServerProcess(models_dir, slots=16, front_ends=1, drain_timeout_s=1) as server:
        (front_end,) = front_ends(server)
        os.kill(front_end, signal.SIGSTOP)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert gone(front_end)
    assert "a front end did not answer 'drain'" in server.text


@pytest.mark.parametrize("count", [1, 2])
def test_a_port_that_is_taken_is_said(models_dir, count):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(AssertionError, match="choose another --port"):
            ServerProcess(models_dir, port=port, front_ends=count).__enter__()


def test_models_that_are_not_there_leave_no_process(tmp_path):
    server = ServerProcess(tmp_path, front_ends=1)
    with pytest.raises(AssertionError, match="has no model packages"):
        server.__enter__()
