"""The documentation as data: its pages, their links and their code."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("models/**/README.md")],
    key=str,
)

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_FENCE = re.compile(
    r"^(?P<marker><!-- (not run: (?P<reason>[^\n]+)|file: (?P<file>[\w.]+)) -->\n)?"
    r"```(?P<language>\w+)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


def links(page: Path) -> list[str]:
    """Targets of a page's links to files of this repository, without anchors."""
    targets = _LINK.findall(_FENCE.sub("", page.read_text()))
    return [t.split("#")[0] for t in targets if not re.match(r"[a-z]+:|#", t)]


def blocks(page: Path, language: str) -> list[str]:
    """Code blocks of a language that are to be run.

    A block is left out if the line before it says `<!-- not run: why -->`, or `<!-- file: name -->`.
    """
    found = _FENCE.finditer(page.read_text())
    return [
        block["code"] for block in found if block["language"] == language and not block["marker"]
    ]


def files(page: Path) -> dict[str, str]:
    """Blocks that are files beside the page's program, `<!-- file: name -->`, by name."""
    found = _FENCE.finditer(page.read_text())
    return {block["file"]: block["code"] for block in found if block["file"]}
