"""The documentation is true: links lead somewhere, code runs, diagrams are current."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from e2e.command import carousel
from support.server import ServerProcess

from carousel._core import lifecycle as lanes
from carousel_server.rows import lifecycle as sessions
from carousel_server.wire import seat

from .pages import PAGES, ROOT, blocks, files, links

ADDRESS = "localhost:50051"


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture(scope="module")
def zoo() -> Iterator[ServerProcess]:
    """A server on the shipped models, with a store."""
    with ServerProcess(ROOT / "models/zoo", store="memory") as server:
        yield server


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_files(page: Path) -> None:
    broken = [link for link in links(page) if not _is_in_a_clone(page.parent / link)]
    assert not broken


def _is_in_a_clone(path: Path) -> bool:
    """A folder without files is there for its owner only: git keeps none."""
    return path.is_file() or (path.is_dir() and any(path.iterdir()))


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=name)
def test_python_runs(page: Path, zoo: ServerProcess, tmp_path: Path) -> None:
    """The blocks of a page run as one program, so that later ones may use what earlier ones made."""
    program = "\n".join(blocks(page, "python")).replace(ADDRESS, zoo.target)
    for file, code in files(page).items():
        (tmp_path / file).write_text(code)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "bash")], ids=name)
def test_commands_exist(page: Path) -> None:
    """Every `carousel` command and every make target that a page names is there."""
    targets = (ROOT / "Makefile").read_text()
    for line in "".join(blocks(page, "bash")).replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["make"]:
            assert f"\n{words[1]}:" in targets, f"no target: {line}"
        if words[:1] == ["carousel"]:
            group = [word for word in words[1:3] if word.isalpha() and word.islower()]
            done = carousel(*group, "--help")
            assert done.returncode == 0, f"no such command: {line}: {done.stderr}"


@pytest.mark.parametrize(
    ("page", "tables"), [("ARCHITECTURE.md", [sessions, seat]), ("docs/guides/sdk.md", [lanes])]
)
def test_the_diagrams_of_tables_are_current(page: str, tables: list[ModuleType]) -> None:
    assert blocks(ROOT / page, "mermaid") == [table.diagram() + "\n" for table in tables]


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
