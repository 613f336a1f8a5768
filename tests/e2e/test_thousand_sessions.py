"""A thousand sessions at once from several processes, every output against the equations."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.server import FEATURES, LSTM, ServerProcess

from .command import environment
from .crowd import STEPS, TOLERANCE

PROCESSES, SESSIONS = 4, 250
CROWD = Path(__file__).with_name("crowd.py")


@pytest.mark.slow
def test_a_thousand_sessions_from_several_processes(models_dir: Path) -> None:
    with ServerProcess(models_dir, slots=PROCESSES * SESSIONS) as server:
        crowd = [
            subprocess.Popen(
                [
                    sys.executable, str(CROWD), server.target, str(models_dir / LSTM), str(FEATURES),
                    str(SESSIONS), str(seed),
                ],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
            )
            for seed in range(PROCESSES)
        ]  # fmt: skip
        finished = [process.communicate(timeout=110) for process in crowd]
        for process, (_, errors) in zip(crowd, finished, strict=True):
            assert process.returncode == 0, errors
        metrics = server.metrics_once(f'carousel_slots_used{{model="{LSTM}"}} 0.0')
    reports = [json.loads(out) for out, _ in finished]
    assert sum(report["sessions"] for report in reports) == 1000
    assert all(report["worst"] <= TOLERANCE for report in reports), reports
    assert f'carousel_steps_total{{model="{LSTM}"}} {1000 * STEPS}.0' in metrics
