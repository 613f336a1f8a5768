"""What a run of the chaos tests has measured, as committed JSON and a table."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import machine

RESULTS = Path(__file__).parents[2] / "bench" / "results"

_HEAD = """\
# Faults, and how long they were felt

Made by `make chaos ARGS=--report` on {cpu}, {cores} cores shared by clients, servers and stores, Python
{python}; {measured_at}, load {load_at_start:.2f} at the start. Every output of every session was compared
with the equations in float64, and to the bit with an undisturbed run; tokens with the latter. *Recovery* is
the time from the ready line of the server that came back (or from the end of the fault, or from the switch to
another replica) until each session had its next output.

| fault | sessions | outputs compared | recovery p50 | recovery max |
|---|---|---|---|---|
"""


@dataclass
class Row:
    """One fault: its name, the sessions that met it, and each one's recovery."""

    fault: str
    sessions: int
    outputs: int = 0
    recoveries_s: list[float] = field(default_factory=list)

    def facts(self) -> dict[str, object]:
        """For the JSON."""
        return {
            "fault": self.fault,
            "sessions": self.sessions,
            "outputs": self.outputs,
            "recovery_p50_s": round(statistics.median(self.recoveries_s), 3),
            "recovery_max_s": round(max(self.recoveries_s), 3),
        }


class Report:
    """Rows in the order of the tests."""

    def __init__(self) -> None:
        self._machine: dict[str, Any] = machine.facts("cpu")
        self._rows: list[Row] = []

    def add(self, fault: str, sessions: int, outputs: int, recoveries_s: Sequence[float]) -> None:
        """A fault is over, and its outputs were compared."""
        self._rows.append(Row(fault, sessions, outputs, list(recoveries_s)))

    def write(self) -> None:
        """Both files."""
        rows = [row.facts() for row in self._rows]
        (RESULTS / "chaos.json").write_text(
            json.dumps({"machine": self._machine, "faults": rows}, indent=1) + "\n"
        )
        lines = [
            f"| {r['fault']} | {r['sessions']} | {r['outputs']:,} | {r['recovery_p50_s']} s | "
            f"{r['recovery_max_s']} s |\n"
            for r in rows
        ]
        (RESULTS / "chaos.md").write_text(_HEAD.format(**self._machine) + "".join(lines))
