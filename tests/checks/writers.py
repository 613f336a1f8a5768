"""One package writes the arrays of the session table; everybody may read them.

The names of the arrays come from the table's own class. A write is an assignment to an element or a slice
of an array, its deletion, a call that changes it in place, or an assignment of another array in its place.
The check reads syntax, not types. So it takes `x.applied[...] = …` for a write of the table wherever `x` is
not `self`, and it follows an array into a local name (`applied = table.applied`).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .sources import SERVER, Function, Source, Violation, sources

TABLE = "SessionTable"
"""The class whose constructor makes the arrays."""

HOME = "rows"
"""The package that may write them."""

_OWNERS = ("table", "rows")
"""What variables that hold the table are called, leading underscores left out."""

_IN_PLACE = frozenset(
    [
        *("add", "add_row", "append", "clear", "discard", "extend", "fill", "insert", "itemset"),
        *("partition", "pop", "popitem", "put", "remove", "resize", "reverse", "setdefault"),
        *("setfield", "sort", "update"),
    ]
)
"""Methods of arrays, lists and row sets that change them."""

_NUMPY_WRITES = frozenset(("copyto", "place", "put", "put_along_axis", "putmask", "fill_diagonal"))
"""Functions of numpy that change their first argument; `ufunc.at` does too."""


class Write(NamedTuple):
    """A place that changes an array of the table."""

    path: Path
    line: int
    array: str
    at_home: bool
    """In the package that may write, or in the file of the table's class."""


def single_writer(root: Path) -> Iterator[Violation]:
    """Nobody but the table's home writes an array of the table."""
    for write in writes(root):
        if not write.at_home:
            yield Violation(
                "writer", write.path, write.line, write.array,
                f"writes the table's array {write.array!r}",
                f"call a verb of {HOME}/ for it; if there is none, add one there",
            )  # fmt: skip


def writes(root: Path) -> list[Write]:
    """All places in the server that write an array of the table, the table's own included."""
    found = list(sources(root, SERVER))
    table = _table(found)
    arrays = _arrays(table)
    places: set[Write] = set()
    for source in found:
        own = source.path == table.path
        home = own or source.path.is_relative_to(SERVER / HOME)
        for part in _parts(source):
            scope = _Scope(arrays, part, own=own)
            places |= {Write(source.path, *write, home) for write in scope.writes()}
    return sorted(places)


def _table(found: list[Source]) -> Source:
    for source in found:
        if any(node.name == TABLE for node in source.classes()):
            return source
    raise ValueError(
        f"no class {TABLE} in {SERVER}: name the table's class in {Path(__file__).name}"
    )


def _parts(source: Source) -> Iterator[ast.AST]:
    """All functions, and the statements outside of functions."""
    yield from (function for _, function in source.functions())
    outside: list[ast.AST] = [source.tree]
    while outside:
        for node in ast.iter_child_nodes(outside.pop()):
            if isinstance(node, ast.ClassDef):
                outside.append(node)
            elif not isinstance(node, Function):
                yield node


def _arrays(table: Source) -> frozenset[str]:
    """Names of the public attributes that the table's constructor makes, but for its plain numbers."""
    (node,) = (each for each in table.classes() if each.name == TABLE)
    (init,) = (f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__")
    names = set()
    for statement in ast.walk(init):
        if isinstance(statement, ast.Assign | ast.AnnAssign):
            for target in _targets(statement):
                plain = isinstance(statement.value, ast.Name | ast.Constant)
                if isinstance(target, ast.Attribute) and not plain:
                    names.add(target.attr)
    return frozenset(name for name in names if not name.startswith("_"))


class _Scope:
    """One function or statement: which of its names stand for arrays of the table, and what it writes."""

    def __init__(self, arrays: frozenset[str], part: ast.AST, *, own: bool) -> None:
        self._arrays = arrays
        self._part = part
        self._own = own
        """The file is the table's own: `self` is the table."""
        self._local = dict(self._aliases())

    def writes(self) -> Iterator[tuple[int, str]]:
        """Line and array of each."""
        for node in ast.walk(self._part):
            if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.Delete | ast.For):
                for target in _targets(node):
                    yield from self._stored(target)
            elif isinstance(node, ast.Call):
                yield from self._called(node)

    def _stored(self, target: ast.expr) -> Iterator[tuple[int, str]]:
        if isinstance(target, ast.Subscript):
            array = self._array(target.value)
        elif isinstance(target, ast.Attribute) and _is_owner(target.value):
            array = target.attr if target.attr in self._arrays else None
        else:
            return
        if array is not None:
            yield target.lineno, array

    def _called(self, call: ast.Call) -> Iterator[tuple[int, str]]:
        changed = [keyword.value for keyword in call.keywords if keyword.arg == "out"]
        function = call.func
        if isinstance(function, ast.Attribute):
            if function.attr in _IN_PLACE:
                changed.append(function.value)
            if call.args and (function.attr == "at" or function.attr in _NUMPY_WRITES):
                changed.append(call.args[0])
        for expression in changed:
            array = self._array(expression)
            if array is not None:
                yield call.lineno, array

    def _array(self, expression: ast.expr) -> str | None:
        """The array of the table that an expression stands for, or a part of."""
        while isinstance(expression, ast.Subscript):
            expression = expression.value
        if isinstance(expression, ast.Name):
            return self._local.get(expression.id)
        if isinstance(expression, ast.Attribute) and expression.attr in self._arrays:
            base = expression.value
            foreign = isinstance(base, ast.Name) and base.id == "self" and not self._own
            return None if foreign else expression.attr
        return None

    def _aliases(self) -> Iterator[tuple[str, str]]:
        """Local names of whole arrays: `applied = table.applied`, also several at once or in turn."""
        for node in ast.walk(self._part):
            for name, value in _named(node):
                if (
                    isinstance(value, ast.Attribute)
                    and value.attr in self._arrays
                    and (_is_owner(value.value) or self._own)
                ):
                    yield name, value.attr


def _named(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Which names a statement gives to which expressions."""
    if isinstance(node, ast.Assign):
        for target in node.targets:
            yield from _pairs(target, node.value)
    elif isinstance(node, ast.AnnAssign | ast.NamedExpr) and node.value is not None:
        yield from _pairs(node.target, node.value)
    elif isinstance(node, ast.For) and isinstance(node.iter, ast.Tuple | ast.List):
        for value in node.iter.elts:
            yield from _pairs(node.target, value)


def _pairs(target: ast.expr, value: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    if isinstance(target, ast.Name):
        yield target.id, value
    elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        for one, of in zip(target.elts, value.elts, strict=False):
            yield from _pairs(one, of)


def _targets(
    node: ast.Assign | ast.AnnAssign | ast.AugAssign | ast.Delete | ast.For,
) -> Iterator[ast.expr]:
    waiting = list(node.targets) if isinstance(node, ast.Assign | ast.Delete) else [node.target]
    while waiting:
        target = waiting.pop(0)
        if isinstance(target, ast.Tuple | ast.List):
            waiting.extend(target.elts)
        elif isinstance(target, ast.Starred):
            waiting.append(target.value)
        else:
            yield target


def _is_owner(base: ast.expr) -> bool:
    """True for `table`, `self._table`, `self._rows.table` and the like."""
    name = base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "")
    return name.lstrip("_") in _OWNERS
