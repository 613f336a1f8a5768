"""A report counts what the judge has found, and says what each fault cost."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from tests.chaos.tracks import StepTrack
from tests.cluster.oracle import Verdict
from tests.cluster.records import Record
from tests.cluster.report import QUIET, Report, during, failures
from tests.cluster.schedule import Event

MACHINE = {
    "cpu": "a processor", "cores": 2, "python": "3.11", "measured_at": "now", "load_at_start": 0.5
}  # fmt: skip
SETUP = {
    "seed": 3, "replicas": "3 to 5", "store": "one Redis", "clients": 2, "outsiders": 6
}  # fmt: skip
VERDICTS = [Verdict("a", 10), Verdict("b", 20, lost=1, doubled=2, wrong=3, first="look here")]


def report() -> Report:
    made = Report(MACHINE, SETUP, errors=Counter({"DataLossError": 2}))
    made.felt(QUIET, 0.0, 10.0)
    made.felt("a fault", 10.0, 20.0)
    made.felt("a fault", 20.0, 30.0)
    tracks = [
        StepTrack("a", "sync", 0, count=10, pauses=[(1.0, 0.1), (12.0, 0.5)]),
        StepTrack("b", "sync", 1, count=20, pauses=[(2.0, 0.2), (21.0, 1.5)]),
    ]
    record = Record(
        list(tracks), Counter({"moves": 2, "rebinds": 3}), Counter({"SESSION_HELD": 4}), [0.1, 0.2]
    )
    made.judge(record, VERDICTS, 30.0)
    return made


def test_counts_are_summed() -> None:
    facts = report().facts
    assert (facts["steps"], facts["lost"], facts["doubled"], facts["wrong"]) == (30, 1, 2, 3)
    assert facts["faults"] == [
        {"fault": QUIET, "times": 1, "sessions": 2, "p50_s": 0.1, "p99_s": 0.2, "max_s": 0.2},
        {"fault": "a fault", "times": 2, "sessions": 4, "p50_s": 0.0, "p99_s": 1.5, "max_s": 1.5},
    ]


def test_both_files_say_the_same(tmp_path: Path) -> None:
    made = report()
    made.write(tmp_path)
    facts = json.loads((tmp_path / "cluster.json").read_text())
    assert facts["setup"]["seed"] == 3
    assert facts["errors"] == {"DataLossError": 2}
    page = (tmp_path / "cluster.md").read_text()
    assert "| 3 | 2 | 30 | 1 | 2 | 3 | 2 DataLossError | 2 | 30 s |" in page
    assert "| a fault | 2 | 0.000 s | 1.500 s | 1.500 s |" in page
    assert "| 2 | 0 | 0 | 3 | 0.100 s | 0.200 s | 0.200 s |" in page
    assert "4 SESSION_HELD" in page
    assert facts["refusals"] == {"SESSION_HELD": 4}


def test_failures_name_sessions() -> None:
    assert failures(VERDICTS) == ["b: 1 lost, 2 doubled, 3 wrong; look here"]
    assert during(None) == "before the first fault"
    assert during(Event(1, "a fault", 0, 1.0)) == "in fault 1: a fault (target 0, 1.00 s)"
