"""The table "Files to edit" is true: its files exist, and a change of each kind touches no other file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.checks.sources import Source

from .pages import ROOT

_PATH = re.compile(r"`([\w./-]+/[\w./-]*)`")

MOST = {
    "add a sampling option": 7,
    "add an RPC": 6,
    "add a cell": 3,
    "add a kind of part": 3,
    "add a runtime of programs": 5,
    "add a tokenizer": 3,
    "add a store": 3,
}
"""The most files that a change of each kind may need."""

EXAMPLES = {
    "add a sampling option": r"\brepetition_penalty\b",
    "add an RPC": r"ForkSession|\bfork_session\b",
    "add a cell": r"\bmin_gru\b",
    "add a kind of part": r"\bRfftPart\b",
    "add a runtime of programs": r"\"torchscript\"",
    "add a tokenizer": r"[\"']huggingface[\"']",
    "add a store": r"\bRedisStore\b",
    "add a metric": r"carousel_steps_not_finite_total",
    "add a command of the command line": r"commands\.compare|^    compare,",
    "add a field of the snapshot": r"[\"']?\bidle_ttl_s\b[\"']?: float = Field",
}
"""A name that stands in every file which the addition of such a thing needs."""

ELSEWHERE = {
    # The first options are written in a form that snapshots hold. A new one needs no line there.
    "add a sampling option": {"server/carousel_server/engine/requests.py"},
    # The example's own file.
    "add a cell": {"models/carousel_models/cells/minimal.py"},
    "add a kind of part": {"models/carousel_models/spectral_parts.py"},
    # Comments of the protocol that list examples.
    "add a tokenizer": {"protos/carousel_protos/v1/carousel.proto"},
    # The example's own files.
    "add a store": {"server/carousel_server/store/redis.py"},
    "add a command of the command line": {"client/python/carousel/cli/commands/compare.py"},
}
"""Files that name the example, and that another addition of its kind leaves as they are."""


def rows() -> dict[str, tuple[list[str], list[str]]]:
    """For each change, its files and those where it applies."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    section = text.split("## Files to edit\n", 1)[1].split("\n## ", 1)[0]
    lines = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return {
        change.strip(): (_PATH.findall(files), _PATH.findall(more))
        for change, files, more in lines[2:]
    }


def named(pattern: str) -> set[str]:
    """Files of the product, without generated ones, that have a line with the pattern."""
    found = set()
    for folder in ("server", "client", "models", "protos", "deploy"):
        for path in (ROOT / folder).rglob("*"):
            written = path.suffix in (".proto", ".cpp") or (
                path.suffix == ".py"
                and "_pb2" not in path.name
                and not Source(ROOT, path).generated
            )
            if written and re.search(pattern, path.read_text(), re.MULTILINE):
                found.add(path.relative_to(ROOT).as_posix())
    return found


def test_every_change_has_a_row() -> None:
    assert set(MOST) | set(EXAMPLES) <= set(rows())
    assert {"add a door", "change the parking policy"} <= set(rows())


@pytest.mark.parametrize("change", rows())
def test_the_files_exist(change: str) -> None:
    files, more = rows()[change]
    assert files
    for path in files + more:
        place = Path(path).parent if "NAME" in path else Path(path)
        assert (ROOT / place).exists(), path


@pytest.mark.parametrize("change", MOST)
def test_there_are_few(change: str) -> None:
    assert len(rows()[change][0]) <= MOST[change]


@pytest.mark.parametrize("change", EXAMPLES)
def test_no_other_file_knows_an_example(change: str) -> None:
    files, more = rows()[change]
    found = named(EXAMPLES[change])
    assert found, "the example is gone: choose another"
    assert found <= {*files, *more} | ELSEWHERE.get(change, set())
