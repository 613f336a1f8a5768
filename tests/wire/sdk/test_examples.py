"""Every example runs, as a user runs it, against a real server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.server import ServerProcess

EXAMPLES = Path(__file__).parents[3] / "examples"

SAYS = {
    "step.py": "expected next",
    "stream_rows.py": "200 rows went through",
    "generate_text.py": "200 tokens, ended by length",
    "tag_file.py": "  '",
    "many_sessions.py": "session [3] failed",
    "async_client.py": "20 forecasts",
    "snapshot_and_fork.py": "both expect the same next byte: True",
    "errors.py": "SESSION_CLOSED",
}


@pytest.mark.parametrize("name", SAYS)
def test_the_example_runs(zoo_server: ServerProcess, name: str) -> None:
    program = EXAMPLES / name
    done = subprocess.run(
        [sys.executable, "-W", "error", str(program), zoo_server.target],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert SAYS[name] in done.stdout
    assert len(program.read_text(encoding="utf-8").splitlines()) < 60
