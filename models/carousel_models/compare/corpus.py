"""Python's standard library as text, which every machine with Carousel has.

A file is held out by the hash of its path, not of its content: a file that was held out when a model
was trained on one Python version is held out on every other one, so quality can be measured anywhere.
"""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

# Tests and tools are written in another style, tables and generated files are hardly code, and
# distutils and lib2to3 are on their way out of the library.
EXCLUDED_PARTS = frozenset(
    {
        "__phello__",
        "__pycache__",
        "distutils",
        "encodings",
        "idlelib",
        "idle_test",
        "lib2to3",
        "msilib",
        "pydoc_data",
        "site-packages",
        "dist-packages",
        "test",
        "tests",
    }
)
HELD_OUT_IN = 16
"""One file of so many is held out."""


class CorpusMissingError(Exception):
    """This Python has no source files of its standard library."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file: its path within the library, with forward slashes, and its bytes."""

    path: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Corpus:
    """Files in an order that is fixed, but not alphabetical: by the hash of their paths."""

    files: tuple[SourceFile, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of all files together."""
        return sum(len(file.content) for file in self.files)

    @property
    def sha256(self) -> str:
        """Lower-case hexadecimal hash over all paths and contents, in order."""
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(f"{file.path}\0{len(file.content)}\0".encode())
            digest.update(file.content)
        return digest.hexdigest()

    def joined(self) -> bytes:
        """All files one after the other, separated by empty lines."""
        return b"\n\n".join(file.content for file in self.files)

    def sample(self, max_bytes: int) -> Corpus:
        """The first files with at most `max_bytes` together. Larger files are skipped."""
        chosen, left = [], max_bytes
        for file in self.files:
            if len(file.content) <= left:
                chosen.append(file)
                left -= len(file.content)
        return Corpus(tuple(chosen))


def _order(path: str) -> bytes:
    return hashlib.sha256(path.encode()).digest()


def is_held_out(path: str) -> bool:
    """True if the file of this path (within the library, forward slashes) is never trained on."""
    return int.from_bytes(_order(path)[:4], "big") % HELD_OUT_IN == 0


def _is_source(path: Path) -> bool:
    generated = any(part.startswith(("_sysconfigdata", "config-")) for part in path.parts)
    return not generated and EXCLUDED_PARTS.isdisjoint(path.parts)


def _paths(root: Path) -> Iterable[Path]:
    for path in root.rglob("*.py"):
        relative = path.relative_to(root)
        if _is_source(relative):
            yield relative


def standard_library(root: Path | None = None) -> tuple[Corpus, Corpus]:
    """Reads the sources: (to train on, held out).

    Args:
        root: their folder. None is the running interpreter's library.

    Raises:
        CorpusMissingError: there are no source files, or too few.
    """
    root = root or Path(sysconfig.get_path("stdlib"))
    training: list[SourceFile] = []
    held_out: list[SourceFile] = []
    for path in sorted(_paths(root), key=lambda path: _order(path.as_posix())):
        file = SourceFile(path.as_posix(), (root / path).read_bytes())
        (held_out if is_held_out(file.path) else training).append(file)
    if not training or not held_out:
        raise CorpusMissingError(
            f"{root} holds {len(training) + len(held_out)} Python source files, too few to split; "
            "run with a Python that carries its standard library as .py files"
        )
    return Corpus(tuple(training)), Corpus(tuple(held_out))
