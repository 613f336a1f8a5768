"""Runs a graph of torch.export: one ATen operator after the other, by a table of what may be called.

Only registered operators of torch's `aten` namespace are called, and arithmetic on sizes. So a file can
compute, and do nothing else.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._ops import OpOverload, OpOverloadPacket

from carousel_models.errors import PackageError

from .pt2_arguments import Reference, names_of, value_of

_ATEN = re.compile(r"torch\.ops\.aten\.(\w+)\.(\w+)")

_FILES = frozenset({"from_file"})
"""Operators of ATen that read files."""

_ARITHMETIC: dict[str, Callable[..., Any]] = {
    **{
        f"_operator.{name}": getattr(operator, name)
        for name in (
            *("add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "pow"),
            *("eq", "ne", "lt", "le", "gt", "ge", "and_", "or_", "not_"),
        )
    },
    "torch.sym_max": max,
    "torch.sym_min": min,
    "torch.sym_float": float,
    "torch.sym_int": int,
    "torch.sym_not": operator.not_,
}
"""Functions of numbers, which exported graphs use on sizes."""


class Instruction(NamedTuple):
    """A call of a graph.

    Attributes:
        function: is called with `args` and `kwargs`, after references in them are replaced.
        args: positional arguments.
        kwargs: arguments by name.
        references: which arguments have references: their key (a place or a name) and what they are.
        results: names of its results.
        several: True if it returns several, even where one has a name.
        dead: names that no later call reads.
    """

    function: Callable[..., Any]
    args: list[Any]
    kwargs: dict[str, Any]
    references: list[tuple[int | str, Any]]
    results: list[str]
    several: bool
    dead: tuple[str, ...]


class Graph:
    """A graph, ready to run. Immutable."""

    def __init__(self, graph: Mapping[str, Any], device: torch.device, where: str) -> None:
        self._outputs = [_output(entry, where) for entry in graph["outputs"]]
        calls = [_instruction(node, device, where) for node in graph["nodes"]]
        self._instructions = _with_deaths(calls, set(self._outputs))

    def run(self, values: dict[str, Any]) -> list[Tensor]:
        """Computes the outputs. `values` are the inputs and weights by name; it is used up."""
        for call in self._instructions:
            args, kwargs = call.args, call.kwargs
            if call.references:
                args, kwargs = list(args), dict(kwargs)
                for key, what in call.references:
                    value = _resolved(what, values)
                    if isinstance(key, int):
                        args[key] = value
                    else:
                        kwargs[key] = value
            found = call.function(*args, **kwargs)
            if call.several:
                values.update(zip(call.results, found, strict=True))
            elif call.results:
                values[call.results[0]] = found
            for name in call.dead:
                values.pop(name, None)
        return [values[name] for name in self._outputs]


def _resolved(what: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(what, Reference):
        return values[what.name]
    return [values[item.name] if isinstance(item, Reference) else item for item in what]


def _instruction(node: Mapping[str, Any], device: torch.device, where: str) -> Instruction:
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    references: list[tuple[int | str, Any]] = []
    for entry in node["inputs"]:
        value = value_of(entry["arg"], device, where)
        key: int | str = len(args) if entry.get("kind") == 1 else str(entry["name"])
        if _refers(value):
            references.append((key, value))
        if isinstance(key, int):
            args.append(value)
        else:
            kwargs[key] = value
    results, several = names_of(node["outputs"])
    function = _function(node["target"], where)
    return Instruction(function, args, kwargs, references, results, several, ())


def _refers(value: Any) -> bool:
    listed = value if isinstance(value, list) else [value]
    return any(isinstance(item, Reference) for item in listed)


def _function(target: str, where: str) -> Callable[..., Any]:
    """What a target's name stands for.

    Raises:
        PackageError: it is neither an operator of ATen nor arithmetic.
    """
    if target in _ARITHMETIC:
        return _ARITHMETIC[target]
    found = _ATEN.fullmatch(target)
    if found and found[1] not in _FILES:
        packet = getattr(torch.ops.aten, found[1], None)
        if isinstance(packet, OpOverloadPacket) and hasattr(packet, found[2]):
            function = getattr(packet, found[2])
            if isinstance(function, OpOverload):
                return function
    raise PackageError(
        f"{where} calls {target!r}, and only operators of torch.ops.aten are run; export a step of plain "
        "tensor operations, without control flow and operators of other libraries"
    )


def _output(entry: Mapping[str, Any], where: str) -> str:
    if "as_tensor" not in entry:
        raise PackageError(f"{where} returns {next(iter(entry))}; a step returns tensors only")
    return str(entry["as_tensor"]["name"])


def _with_deaths(calls: Sequence[Instruction], kept: set[str]) -> list[Instruction]:
    """Calls with the names that each is the last to read or to make, so that memory is freed early."""
    found, seen = [], set(kept)
    for call in reversed(calls):
        listed = [
            w for _, what in call.references for w in (what if isinstance(what, list) else [what])
        ]
        names = {w.name for w in listed if isinstance(w, Reference)} | set(call.results)
        found.append(call._replace(dead=tuple(names - seen)))
        seen |= names
    return found[::-1]
