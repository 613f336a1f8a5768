"""TorchScript files, run by torch's interpreter of TorchScript. It runs no Python."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from carousel_models.errors import PackageError

from .interface import Call, Port, Signature
from .torchscript_archive import sealed

_NUMBERS = {"int": "int64", "float": "float64", "bool": "bool"}
"""Types of arguments that are plain numbers."""


def load(data: bytes, device: torch.device, where: str) -> TorchScriptProgram:
    """Loads a TorchScript file onto a device.

    Raises:
        PackageError: torch does not load the file, its code does more than compute, or its arguments are no
            tensors.
    """
    checked = sealed(data, where)  # before torch loads it, since loading can run its code
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            module = torch.jit.load(  # type: ignore[no-untyped-call]
                io.BytesIO(checked), map_location=device
            )
    except Exception as error:  # foreign files fail in many ways
        raise PackageError(
            f"{where} is not a TorchScript file that torch {torch.__version__} can load: {error}; save it "
            "with torch.jit.script(module).save(path), or export it with torch.export"
        ) from error
    return TorchScriptProgram(module.eval(), device, where)


class TorchScriptProgram:
    """A ScriptModule whose `forward` is the step. Tuples of tensors are flattened, and counted after a dot.

    It runs without the profiling optimizer. That one compiles during the first calls, and may change bits.
    """

    fresh = False

    def __init__(self, module: Any, device: torch.device, where: str) -> None:
        self._module = module
        self._attributes = _attributes_of(module, where)
        self.device = device
        arguments = module.forward.schema.arguments[1:]
        self._sizes = [_leaves(argument, where) for argument in arguments]
        count = _outputs(module.forward.schema.returns[0].type, where)
        self.signature = Signature(
            tuple(port for argument in arguments for port in _ports(argument)),
            tuple(Port(str(number), "", None) for number in range(count)),
        )

    @property
    def shared(self) -> Mapping[str, Tensor]:
        """Its parameters and buffers, and plain tensors that `forward` reads."""
        return {**self._module.state_dict(), **self._attributes}

    def bind(
        self, inputs: Sequence[str], outputs: Sequence[str], constants: Mapping[str, Tensor]
    ) -> Call:
        """See `Program`."""
        places = {name: place for place, name in enumerate(inputs)}
        slots: list[tuple[int, Any]] = []  # the place of an input, or -1 and a constant
        for port in self.signature.inputs:
            fixed = constants.get(port.name)
            plain = fixed.item() if fixed is not None and port.scalar else fixed
            slots.append((-1, plain) if fixed is not None else (places[port.name], None))
        wanted = [int(name) for name in outputs]

        def call(given: Sequence[Tensor]) -> list[Tensor]:
            flat = [given[place] if place >= 0 else fixed for place, fixed in slots]
            with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
                found = _flat(self._module(*self._arguments(flat)))
            return [found[place] for place in wanted]

        return call

    def _arguments(self, flat: list[Any]) -> list[Any]:
        """Flat inputs as `forward` takes them, tuples joined again."""
        given, start = [], 0
        for size in self._sizes:
            given.append(flat[start] if size is None else tuple(flat[start : start + size]))
            start += size or 1
        return given


_CONTAINERS = ("ListType", "DictType")
_CHANGED = re.compile(r"\(\w+ ?!\)")
"""The mark of an argument that an operator changes, in its schema."""


def _attributes_of(module: Any, where: str) -> dict[str, Tensor]:
    """The plain tensors that `forward` reads, by their paths in the module.

    Raises:
        PackageError: it sets an attribute of the module, or changes a list or dictionary in one.
    """
    found: dict[str, Tensor] = {}
    graph = module.inlined_graph
    if changed := graph.findAllNodes("prim::SetAttr"):
        raise _remembers(changed[0].s("name"), where)
    for node in graph.findAllNodes("prim::GetAttr"):
        value, path = _resolved(node.output(), module)
        kind = node.output().type().kind()
        if kind in _CONTAINERS and any(_changes(use.user) for use in node.output().uses()):
            raise _remembers(path, where)
        if isinstance(value, Tensor):
            found[path] = value
    return found


def _resolved(value: Any, module: Any) -> tuple[Any, str]:
    """What a chain of attributes in a graph stands for, and its path."""
    node = value.node()
    if node.kind() != "prim::GetAttr":
        return module, ""
    (owner,) = node.inputs()
    parent, path = _resolved(owner, module)
    name = node.s("name")
    return getattr(parent, name, None), f"{path}.{name}" if path else name


def _changes(node: Any) -> bool:
    """True if an operator changes one of its arguments, by its schema."""
    return _CHANGED.search(str(node.schema())) is not None


def _remembers(name: str, where: str) -> PackageError:
    return PackageError(
        f"{where} changes its own attribute {name!r} in a step, and all sessions share that; make it an "
        "input and an output of forward"
    )


def _leaves(argument: Any, where: str) -> int | None:
    """The number of tensors of a tuple. None for one tensor or number."""
    kind = argument.type
    if kind.kind() == "TupleType" and all(e.kind() == "TensorType" for e in kind.elements()):
        return len(kind.elements())
    if kind.kind() == "TensorType" or str(kind) in _NUMBERS:
        return None
    raise PackageError(
        f"{where}: the argument {argument.name!r} of forward is {kind}; a step takes tensors, tuples of "
        "tensors, and numbers"
    )


def _ports(argument: Any) -> tuple[Port, ...]:
    kind = argument.type
    if kind.kind() == "TupleType":
        return tuple(Port(f"{argument.name}.{n}", "", None) for n in range(len(kind.elements())))
    number = _NUMBERS.get(str(kind))
    if number:
        return (Port(argument.name, number, (), scalar=True),)
    return (Port(argument.name, "", None),)


def _outputs(kind: Any, where: str) -> int:
    """The number of tensors that a returned type has."""
    if kind.kind() == "TensorType":
        return 1
    if kind.kind() == "TupleType":
        return sum(_outputs(element, where) for element in kind.elements())
    raise PackageError(
        f"{where}: forward returns {kind}; a step returns tensors, or tuples of tensors"
    )


def _flat(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [tensor for part in value for tensor in _flat(part)]
