"""One style for what callers read: a clause in lower case, without the final period."""

from __future__ import annotations

import ast
from pathlib import Path

import carousel_server

MAKERS = {"CarouselError": 1, "invalid": 1, "shape_error": 1}
"""Functions that take a message, and its place among the arguments."""


def texts(node):
    """First and last literal text of an expression, where it has them."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value, node.value
    if isinstance(node, ast.JoinedStr):
        ends = (node.values[0], node.values[-1])
        return tuple(e.value if isinstance(e, ast.Constant) else "" for e in ends)
    return "", ""


def messages():
    for path in Path(carousel_server.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            name = getattr(getattr(node, "func", None), "id", None)
            if name in MAKERS and len(node.args) > MAKERS[name]:
                first, last = texts(node.args[MAKERS[name]])
                yield f"{path.name}:{node.lineno}", first, last


def test_messages_are_clauses():
    found = list(messages())
    assert len(found) > 40
    for place, first, last in found:
        assert not last.endswith((".", "!")), f"{place} ends with {last!r}"
        assert not first[:1].isupper() or first[:2].isupper(), f"{place} begins with {first!r}"
