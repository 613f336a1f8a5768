"""The results of checks, and how they are shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from carousel.cli.options import Options, Output
from carousel.cli.printing import print_json, print_rich, printable

if TYPE_CHECKING:
    from rich.table import Table


class Level(StrEnum):
    """How well a thing is. The names are those of the server's findings."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"
    SKIPPED = "skipped"


STYLES = {
    Level.OK: "green",
    Level.WARNING: "yellow",
    Level.PROBLEM: "bold red",
    Level.SKIPPED: "dim",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check: the thing, how well it is, what was found, and the fix ("" if it is well)."""

    check: str
    level: Level
    found: str
    fix: str = ""


def show(options: Options, findings: Sequence[Finding]) -> None:
    """Prints all findings and a count of each level."""
    counts = Counter(finding.level for finding in findings)
    if options.output is Output.JSON:
        told = {level.value: counts[level] for level in Level}
        print_json({"counts": told, "findings": [asdict(finding) for finding in findings]})
        return
    print_rich(as_table(findings))
    print_rich(", ".join(f"{counts[level]} {level}" for level in Level if counts[level]))


def as_table(findings: Sequence[Finding]) -> Table:
    """A row for each finding, and the fix in a line below it. Long texts are wrapped."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for finding in findings:
        level = Text(finding.level, style=STYLES[finding.level])
        table.add_row(level, Text(finding.check), Text(printable(finding.found)))
        if finding.fix:
            table.add_row("", "", Text(f"fix: {printable(finding.fix)}", style="italic"))
    return table
