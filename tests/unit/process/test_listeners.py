"""Who listens on a port, from /proc."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from carousel_server.process.listeners import Listener, listener

_HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


def line(port: int, state: str, inode: int) -> str:
    ends = f"0100007F:{port:04X} 00000000:0000 {state}"
    return f"   0: {ends} 00000000:00000000 00:00000000 00000000     0        0 {inode} 1\n"


def process(proc: Path, pid: int, command: str, *inodes: int) -> None:
    files = proc / str(pid) / "fd"
    files.mkdir(parents=True)
    for number, inode in enumerate(inodes):
        (files / str(number)).symlink_to(f"socket:[{inode}]")
    (files.parent / "cmdline").write_text(command.replace(" ", "\0") + "\0")
    (files.parent / "comm").write_text("short\n")


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    (tmp_path / "net").mkdir()
    (tmp_path / "net/tcp").write_text(_HEAD + line(50051, "0A", 7) + line(6000, "01", 8))
    return tmp_path


@pytest.mark.parametrize(
    ("command", "program"),
    [
        ("/usr/bin/nginx -c x", "nginx"),
        ("/venv/bin/python3 -m carousel_server --store redis://:secret@host", "carousel_server"),
        ("/venv/bin/python -P /venv/bin/carousel serve", "carousel"),
        ("python3", "python3"),
    ],
)
def test_the_program_is_named_without_its_arguments(proc: Path, command: str, program: str) -> None:
    process(proc, 12, "sleep 1", 3)
    process(proc, 34, command, 4, 7)
    found = listener(50051, proc)
    assert found == Listener(34, program)
    assert found.is_carousel == program.startswith("carousel")
    assert "secret" not in str(found)


def test_a_connection_is_no_listener(proc: Path) -> None:
    process(proc, 34, "client", 8)
    assert listener(6000, proc) is None
    assert listener(1, proc) is None


def test_a_listener_of_another_user_is_not_found(proc: Path) -> None:
    assert listener(50051, proc) is None


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="the system has no /proc")
def test_this_process_is_found() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        found = listener(taken.getsockname()[1])
    assert found is not None
    assert found.pid == os.getpid()
