"""The files that the checks read, and what a check reports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

PRODUCT = ("server", "client", "models")
"""The folders that the share of tests is measured against."""

CODE = (*PRODUCT, "protos", "bench", "deploy", "docs", "examples")
"""The folders whose files and functions are small. Tests may be longer: a table of cases is."""

SERVER = Path("server/carousel_server")

_GENERATED = "do not edit"
_HEADER_LINES = 2

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Violation(NamedTuple):
    """A rule that does not hold at one place.

    `name` is the class, function or array at fault. It names the violation in the list of known ones,
    together with the check and the file's name, so that a file may move to another folder.
    """

    check: str
    path: Path
    line: int
    name: str
    found: str
    fix: str

    @property
    def key(self) -> str:
        """As the list of known violations has it."""
        return f"{self.check} {self.path.name} {self.name}"

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.name}: {self.found}\n    fix: {self.fix}"


class Source:
    """A Python file of the tree."""

    def __init__(self, root: Path, path: Path) -> None:
        self.path = path.relative_to(root)
        self.text = path.read_text(encoding="utf-8")

    @property
    def lines(self) -> int:
        """Number of lines."""
        return len(self.text.splitlines())

    @property
    def generated(self) -> bool:
        """True if its first lines say that it is made by a program."""
        return _GENERATED in " ".join(self.text.lower().split("\n")[:_HEADER_LINES])

    @cached_property
    def tree(self) -> ast.Module:
        """Its syntax tree."""
        return ast.parse(self.text, str(self.path))

    def functions(self) -> Iterator[tuple[str, Function]]:
        """All functions and methods, also those inside others, with their qualified names."""
        yield from _functions(self.tree, "")

    def classes(self) -> Iterator[ast.ClassDef]:
        """All classes."""
        return (node for node in ast.walk(self.tree) if isinstance(node, ast.ClassDef))


def sources(root: Path, *folders: str | Path) -> Iterator[Source]:
    """The Python files of these folders, in order."""
    for folder in folders:
        for path in sorted((root / folder).rglob("*.py")):
            yield Source(root, path)


def _functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, Function]]:
    for child in ast.iter_child_nodes(node):
        name = prefix
        if isinstance(child, ast.ClassDef | Function):
            name = f"{prefix}{child.name}."
        if isinstance(child, Function):
            yield name.rstrip("."), child
        yield from _functions(child, name)
