"""What a run makes ends with it, whatever ends it; and a cut of the network cuts what it says."""

from __future__ import annotations

import json
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from . import sandbox

PATIENCE_S = 60.0
PROBE = [sys.executable, "-m", "tests.cluster.probe"]
MARK = "CLUSTER_TEST_MARK"


def marked(mark: str) -> list[int]:
    """Processes whose environment has the mark."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
            except OSError:
                continue  # it has just ended
    return found


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_of_a_run_that_is_ended(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = secrets.token_hex(8)
    monkeypatch.setenv(MARK, mark)
    process = subprocess.Popen(
        [*PROBE, "wait"],
        cwd=sandbox.ROOT, env=sandbox.environment(), stdout=subprocess.PIPE, text=True,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    assert len(marked(mark)) > 2
    process.send_signal(number)
    assert process.wait(PATIENCE_S) != 0
    give_up_s = time.monotonic() + PATIENCE_S
    while marked(mark):
        assert time.monotonic() < give_up_s, f"still there: {marked(mark)}"
        time.sleep(0.05)
    process.stdout.close()


def test_cuts_are_of_the_hosts_and_the_way_that_they_name() -> None:
    ran = subprocess.run(
        PROBE, cwd=sandbox.ROOT, env=sandbox.environment(), stdout=subprocess.PIPE, text=True
    )
    found = json.loads(ran.stdout)
    everyone = ["ab", "ac", "ba", "bc", "ca", "cb"]
    assert found["reached"] == {
        "none": everyone,
        "both": ["bc", "cb"],
        # What b sends to a is lost, also its answers.
        "to": ["ac", "bc", "ca", "cb"],
        "mended": everyone,
    }
    assert found["clock_is_ahead"]
