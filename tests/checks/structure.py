"""Every part of the server has a layer, the tests are as long as the code, and the prose is plain."""

from __future__ import annotations

import configparser
from collections.abc import Iterator
from pathlib import Path

from .prose import MOST_JOINED, MOST_WORDS, PROSE, of_files
from .sources import PRODUCT, SERVER, Violation, sources

CONTRACTS = Path(".importlinter")
_LAYERS = "importlinter:contract:rooms"
_LEAST_SHARE = 1.0


def layers(root: Path) -> Iterator[Violation]:
    """Each package and module of the server stands in a layer of the import contract."""
    named = {name for layer in layer_names(root) for name in layer}
    for part in parts(root):
        if f"carousel_server.{part.stem}" not in named:
            yield Violation(
                "layer", part, 1, part.stem, f"stands in no layer of {CONTRACTS}",
                f"add carousel_server.{part.stem} to the layer that it belongs to, or move it into a room",
            )  # fmt: skip


def parts(root: Path) -> list[Path]:
    """The packages of the server, and its modules that lie in none."""
    folder = root / SERVER
    found = [path.parent for path in folder.glob("*/__init__.py")]
    found += [path for path in folder.glob("*.py") if not path.stem.startswith("__")]
    return sorted(path.relative_to(root) for path in found)


def layer_names(root: Path) -> list[list[str]]:
    """The layers from top to bottom, each with the full names of its modules."""
    contracts = configparser.ConfigParser()
    contracts.read_string((root / CONTRACTS).read_text(encoding="utf-8"))
    contract = contracts[_LAYERS]
    container = contract.get("containers", "").strip()
    prefix = f"{container}." if container else ""
    lines = [line for line in contract["layers"].split("\n") if line.strip()]
    return [[prefix + name.strip(" ()") for name in line.split("|")] for line in lines]


def plain_prose(root: Path) -> Iterator[Violation]:
    """README, ARCHITECTURE and the guides have short sentences, and few that are joined."""
    for pattern in PROSE:
        found = of_files(sorted(root.glob(pattern)))
        if not found.sentences:
            yield Violation(
                "prose", Path(pattern), 1, pattern, "no sentence was found there",
                "name the pages in prose.PROSE",
            )  # fmt: skip
        if not found.is_plain:
            yield Violation(
                "prose", Path(pattern), 1, pattern,
                f"{found.words_a_sentence:.1f} words a sentence and {found.joined_share:.0%} with a colon "
                f"or semicolon, of at most {MOST_WORDS:g} and {MOST_JOINED:.0%}",
                "split the long sentences: one idea each",
            )  # fmt: skip


def share_of_tests(root: Path) -> Iterator[Violation]:
    """There is at least one line of tests for each line of server, client and models."""
    code = sum(source.lines for source in sources(root, *PRODUCT))
    tests = sum(source.lines for source in sources(root, "tests"))
    if tests < _LEAST_SHARE * code:
        yield Violation(
            "tests", Path("tests"), 1, "tests", f"{tests} lines for {code} lines of {', '.join(PRODUCT)}",
            "test what is not tested yet, or delete code",
        )  # fmt: skip
