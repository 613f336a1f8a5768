"""What a run has measured, as a table and as committed JSON."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .oracle import Verdict
from .pauses import longest, summary
from .records import COUNTS, Record
from .schedule import Event

RESULTS = Path(__file__).parents[2] / "bench" / "results"

QUIET = "nothing happens"

_HEAD = """\
# A cluster under faults

Made by `make cluster` on {cpu}, {cores} cores shared by all clients, replicas and stores, Python {python};
{measured_at}, load {load_at_start:.2f} at the start. {replicas} replicas, {store}, {clients} processes of
clients. Each process has a network namespace with an address of its own. Every output was compared to the bit
with an undisturbed run, and with the equations in float64.

| seed | sessions | steps | lost | doubled | wrong | errors of applications | faults | time |
|---|---|---|---|---|---|---|---|---|
| {seed} | {sessions} | {steps:,} | {lost} | {doubled} | {wrong} | {errors} | {faults} | {seconds:.0f} s |

| moves | redirects | reconnects | sessions bound again | pause of a move p50 | p99 | max |
|---|---|---|---|---|---|---|
| {moves:,} | {redirects:,} | {reconnects:,} | {rebinds:,} | {move_p50} | {move_p99} | {move_max} |

A move is a session that a server has handed over to another one. Its pause is from the message that says so
until the session was bound at the other server. {outsiders} of the sessions are of outsiders, who make unary
calls through HAProxy. Their calls were refused in passing, and made again, for these reasons: {refusals}.

*Pause* is the longest time that a session had waited for an output that it had asked for, from the beginning
of the fault until each session had its next output. Of sessions in one batch, each waits for the slowest.

| fault | times | pause p50 | pause p99 | pause max |
|---|---|---|---|---|
"""


@dataclass
class Report:
    """A run. Each fault has the spans of time of its occurrences."""

    machine: dict[str, Any]
    setup: dict[str, Any]
    spans: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    errors: Counter[str] = field(default_factory=Counter)
    facts: dict[str, Any] = field(default_factory=dict)

    def felt(self, name: str, begin_s: float, end_s: float) -> None:
        """A fault began, and was over when each session had had another output."""
        self.spans.setdefault(name, []).append((begin_s, end_s))

    def judge(self, record: Record, verdicts: Sequence[Verdict], seconds: float) -> None:
        """The run is over."""
        tracks = record.tracks
        rows = []
        for name, spans in self.spans.items():
            pauses = [p for begin_s, end_s in spans for p in longest(tracks, begin_s, end_s)]
            rows.append({"fault": name, "times": len(spans), **_rounded(asdict(summary(pauses)))})
        self.facts = {
            "sessions": len(tracks),
            "steps": sum(track.count for track in tracks),
            "lost": sum(verdict.lost for verdict in verdicts),
            "doubled": sum(verdict.doubled for verdict in verdicts),
            "wrong": sum(verdict.wrong for verdict in verdicts),
            "errors": dict(self.errors),
            **{name: record.counts[name] for name in COUNTS},
            "refusals": dict(record.refusals),
            "move_pauses": _rounded(asdict(summary(record.move_pauses_s))),
            "seconds": round(seconds, 1),
            "faults": rows,
        }

    def text(self) -> str:
        """The page."""
        faults, pauses = self.facts["faults"], self.facts["move_pauses"]
        shown = {
            **self.machine, **self.setup, **self.facts,
            **{f"move_{name}": _seconds(pauses[f"{name}_s"]) for name in ("p50", "p99", "max")},
            "errors": _counted(self.errors) or "0",
            "refusals": _counted(self.facts["refusals"]) or "none",
            "faults": sum(row["times"] for row in faults if row["fault"] != QUIET),
        }  # fmt: skip
        lines = [
            "| {fault} | {times} | {p50} | {p99} | {max} |\n".format(
                **row, **{name: _seconds(row[f"{name}_s"]) for name in ("p50", "p99", "max")}
            )
            for row in faults
        ]
        return _HEAD.format(**shown) + "".join(lines)

    def write(self, folder: Path = RESULTS) -> None:
        """Both files."""
        facts = {"machine": self.machine, "setup": self.setup, **self.facts}
        (folder / "cluster.json").write_text(json.dumps(facts, indent=1) + "\n")
        (folder / "cluster.md").write_text(self.text())


def failures(verdicts: Sequence[Verdict]) -> list[str]:
    """What is wrong with the outputs, a line for each session."""
    return [
        f"{one.session}: {one.lost} lost, {one.doubled} doubled, {one.wrong} wrong; {one.first}"
        for one in verdicts
        if not one.holds
    ]


def during(event: Event | None) -> str:
    """For the text of a failure."""
    return "before the first fault" if event is None else f"in fault {event}"


def _counted(names: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in names.items())


def _seconds(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f} s"


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    return {k: round(v, 3) if isinstance(v, float) else v for k, v in values.items()}
