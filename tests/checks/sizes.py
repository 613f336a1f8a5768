"""Files, functions and constructors stay small."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from .sources import CODE, Function, Violation, sources

MOST_LINES = 400
MOST_FUNCTION_LINES = 70
MOST_PARAMETERS = 6

SDK = Path("client/python/carousel")

PUBLIC = (SDK / "__init__.py", SDK / "exceptions.py")
"""Their `__all__` list the SDK's public classes."""


def files(root: Path) -> Iterator[Violation]:
    """A file has at most 400 lines, unless a program makes it."""
    for source in sources(root, *CODE):
        if source.lines > MOST_LINES and not source.generated:
            yield Violation(
                "file", source.path, 1, source.path.name,
                f"{source.lines} lines, of at most {MOST_LINES}",
                "move a part that has one job into a file of its own",
            )  # fmt: skip


def functions(root: Path) -> Iterator[Violation]:
    """A function has at most 70 lines, its docstring not counted."""
    for source in sources(root, *CODE):
        if source.generated:
            continue
        for name, function in source.functions():
            lines = function_lines(function)
            if lines > MOST_FUNCTION_LINES:
                yield Violation(
                    "function", source.path, function.lineno, name,
                    f"{lines} lines, of at most {MOST_FUNCTION_LINES}",
                    "give a part of it a name of its own",
                )  # fmt: skip


def function_lines(function: Function) -> int:
    """Lines from `def` to the end, without decorators and docstring."""
    assert function.end_lineno is not None
    lines = function.end_lineno - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function, clean=False) is not None:
        assert first.end_lineno is not None
        lines -= first.end_lineno - first.lineno + 1
    return lines


def constructors(root: Path) -> Iterator[Violation]:
    """A constructor takes at most 6 parameters.

    The rule is for classes that write an `__init__`: each parameter is something that the object works
    with. Records write none (dataclasses, named tuples, pydantic models), so they may have more fields.
    The SDK's public classes are exempt too, since each of their parameters is an option for users.
    """
    public = public_names(root)
    for source in sources(root, *CODE):
        if source.generated:
            continue
        of_the_sdk = source.path.is_relative_to(SDK)
        for name, count, line in constructor_sizes(source.tree):
            if count > MOST_PARAMETERS and not (of_the_sdk and name in public):
                yield Violation(
                    "constructor", source.path, line, name,
                    f"{count} parameters, of at most {MOST_PARAMETERS}",
                    "group what always travels together into a frozen dataclass, or split the class",
                )  # fmt: skip


def constructor_sizes(tree: ast.Module) -> Iterator[tuple[str, int, int]]:
    """Each class that writes an `__init__`: its name, the number of parameters but self, the line."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef):
            continue
        for function in node.body:
            if isinstance(function, ast.FunctionDef) and function.name == "__init__":
                yield node.name, _parameters(function) - 1, function.lineno


def _parameters(function: ast.FunctionDef) -> int:
    arguments = function.args
    several = (arguments.vararg, arguments.kwarg)
    listed = (arguments.posonlyargs, arguments.args, arguments.kwonlyargs)
    return sum(map(len, listed)) + sum(each is not None for each in several)


def public_names(root: Path) -> frozenset[str]:
    """What the SDK exports."""
    return frozenset(
        name for path in PUBLIC if (root / path).exists() for name in _all(root / path)
    )


def _all(path: Path) -> list[str]:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    raise ValueError(f"{path} has no __all__: write the public names down there")
