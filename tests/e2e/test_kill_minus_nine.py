"""The guide kill-minus-nine, done as it says: its own commands, on a free port."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from docs.pages import ROOT, blocks

from .command import environment

SERVE, STREAM, KILL, COMPARE = blocks(ROOT / "docs/guides/kill-minus-nine.md", "bash")


def shell(code: str, port: int, directory: Path) -> subprocess.Popen[str]:
    """A terminal of the reader's, in a group of its own, with the environment's commands."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = code.replace("models/zoo", str(ROOT / "models/zoo"))
    settings = {
        "CAROUSEL_PORT": str(port),
        "CAROUSEL_METRICS_PORT": "0",
        "CAROUSEL_SERVER": f"127.0.0.1:{port}",
    }
    return subprocess.Popen(
        ["bash", "-c", command], cwd=directory, env=environment(PATH=path, **settings),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def ended(terminal: subprocess.Popen[str]) -> None:
    """Ends a terminal and all that runs in it."""
    os.killpg(terminal.pid, signal.SIGKILL)
    terminal.communicate()


def rest_of(terminal: subprocess.Popen[str]) -> tuple[str, str]:
    """All that is still to be read; `communicate` would lose what `read` took in ahead."""
    assert terminal.stdout is not None
    assert terminal.stderr is not None
    impatience = threading.Timer(100, os.killpg, (terminal.pid, signal.SIGKILL))
    impatience.start()
    try:
        with terminal, terminal.stdout, terminal.stderr:
            return terminal.stdout.read(), terminal.stderr.read()
    finally:
        impatience.cancel()


def test_the_text_goes_on_where_the_kill_stopped_it(tmp_path: Path) -> None:
    first = shell(SERVE, 0, tmp_path)
    assert first.stdout is not None
    ready = json.loads(first.stdout.readline())
    assert ready["store"] == "sqlite"
    port = ready["port"]
    reader = shell(STREAM, port, tmp_path)
    assert reader.stdout is not None
    begun = reader.stdout.read(2_000)
    subprocess.run(["bash", "-c", KILL.replace("PID", str(ready["pid"]))], check=True)
    first.communicate()
    assert first.returncode == -signal.SIGKILL
    again = shell(SERVE, port, tmp_path)
    try:
        rest, trouble = rest_of(reader)
        assert reader.returncode == 0, trouble
        compared, trouble = shell(COMPARE, port, tmp_path).communicate(timeout=100)
    finally:
        ended(again)
    assert "the same text" in compared, trouble
    # Four tokens of prompt, and all that were drawn but the last.
    assert "10,003" in compared.split()
    text = (begun + rest).split("\n", 1)[1]  # without the line of `sessions open`
    assert text == (tmp_path / "whole.txt").read_text()
