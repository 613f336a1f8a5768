"""Makes an archive of torch.export that `torch.export.load` can read without running what the file says.

Torch unpickles sample inputs, evaluates the sizes of tensors with sympy, compiles guards as Python, and
imports modules that the forms of arguments name. An import compares a step with torch's own module all the
same. So torch gets an archive of the records that a step needs, and those are checked here.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from typing import Any

from .imported import NoOriginalError

_NAMES = frozenset({
    "Symbol", "Integer", "Rational", "Mul", "Add", "Pow", "Mod", "PythonMod", "FloorDiv", "CleanDiv",
    "CeilDiv", "Max", "Min", "Eq", "Ne", "Equality", "Unequality", "LessThan", "StrictLessThan",
    "GreaterThan", "StrictGreaterThan", "positive", "negative", "nonnegative", "integer", "real", "True",
    "False",
})  # fmt: skip
"""What an expression of sizes may name, beside symbols such as s12."""

_EXPRESSION = re.compile(r"(?:[A-Za-z]\w*|'[su]\d+'|\d{1,18}|[(),=<>+/ -]|\*(?!\s*\*))*")
_WORD = re.compile(r"'?\b[A-Za-z]\w*")
_SYMBOL = re.compile(r"'?[su]\d+")
_FORMS = frozenset({None, "builtins.tuple", "builtins.list", "builtins.dict"})
"""Types of arguments and results that name no module."""

_DROPPED = ("data/sample_inputs/", "extra/", "data/aotinductor/")


def sealed(data: bytes) -> io.BytesIO:
    """The archive of a program that `open_program` has loaded, without anything that torch would run.

    Raises:
        NoOriginalError: the graph needs something that torch would run.
    """
    found = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(found, "w") as copy:
        for record in archive.namelist():
            name, text = record.partition("/")[2], archive.read(record)
            if name.startswith(_DROPPED):
                text = b""
            elif name.startswith("models/"):
                text = json.dumps(_program(json.loads(text))).encode()
            elif name.startswith("data/constants/") and name.endswith(".json"):
                _check_constants(json.loads(text))
            copy.writestr(zipfile.ZipInfo(record), text)
    found.seek(0)
    return found


def _program(program: dict[str, Any]) -> dict[str, Any]:
    """The JSON of a program without guards and without notes for people."""
    module = program["graph_module"]
    nodes = [node | {"metadata": {}} for node in module["graph"]["nodes"]]
    calls = module["module_call_graph"][:1]
    for call in calls:
        for form in ("in_spec", "out_spec"):
            _check_form(json.loads(call["signature"][form])[1])
    graph = module["graph"] | {"nodes": nodes}
    for expression in _expressions([graph, module["signature"]]):
        _check_expression(expression)
    module = module | {"graph": graph, "module_call_graph": calls, "metadata": {}}
    return program | {"guards_code": [], "graph_module": module}


def _expressions(value: Any) -> Iterator[Any]:
    """All expressions of sizes in a part of the JSON."""
    if isinstance(value, dict):
        if "expr_str" in value:
            yield value["expr_str"]
        for inner in value.values():
            yield from _expressions(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _expressions(inner)


def _check_expression(text: Any) -> None:
    words = _WORD.findall(text) if isinstance(text, str) and _EXPRESSION.fullmatch(text) else [""]
    if not all(word in _NAMES or _SYMBOL.fullmatch(word) for word in words):
        raise NoOriginalError(f"torch would evaluate the size {text!r} of the file as code")


def _check_form(form: Any) -> None:
    if form["type"] not in _FORMS or "__enum__" in str(form["context"]):
        raise NoOriginalError(f"torch would look up the type {form['type']!r} of an argument")
    for child in form["children_spec"]:
        _check_form(child)


def _check_constants(config: Any) -> None:
    for name, entry in config["config"].items():
        if entry["use_pickle"] or not entry["path_name"].startswith("tensor_"):
            raise NoOriginalError(f"torch would unpickle the constant {name!r}")
