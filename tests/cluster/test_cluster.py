"""The short form of `make cluster`: a few faults of different kinds, every output judged."""

from __future__ import annotations

import subprocess
import sys

from . import sandbox

SEED = "13"
FAULTS = 5


def test_no_output_is_lost_doubled_or_wrong_and_no_application_gets_an_error() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.cluster", "--form", "short", "--seed", SEED],
        cwd=sandbox.ROOT, env=sandbox.environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"
    assert f"| 0 | 0 | 0 | 0 | {FAULTS} |" in ran.stdout
    assert "Traceback" not in ran.stderr, ran.stderr
