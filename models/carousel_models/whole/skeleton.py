"""Writes a custom module for a module that a manifest cannot describe: Python to go on from, which runs."""

from __future__ import annotations

import keyword
import re
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from carousel_models.cells import RecurrentLayers
from carousel_models.row_parts import ActivationPart, LinearPart, NormPart, PReluPart

from .chains import MisfitError
from .module import Attempt
from .own import OwnRows
from .result import outputs_of
from .template import custom_module
from .values import (
    Added,
    Affine,
    Computed,
    Embedded,
    Expr,
    Foreign,
    Recurrent,
    Source,
    Transformed,
    Unknown,
)


class NoSkeletonError(Exception):
    """A module that has no step. The message says why."""


@dataclass(slots=True)
class Sketch:
    """The code of a custom module while it is written.

    Attributes:
        weights: the user's weights by name.
        lines: of `step`.
        modules: constructors and their arguments by the name of the attribute.
        states: shapes by name.
        tensors: where each tensor of the new module comes from, as Python.
        embedding: the table of the tokens, as Python.
        inputs: width of the rows that the step gets.
    """

    weights: dict[str, Tensor]
    lines: list[str] = field(default_factory=list)
    modules: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    states: dict[str, tuple[int, ...]] = field(default_factory=dict)
    tensors: dict[str, str] = field(default_factory=dict)
    embedding: str = ""
    inputs: int = 0
    _names: dict[Expr, str] = field(default_factory=dict)

    def of(self, expr: Expr) -> str:
        """The variable with the rows of an expression. The lines that compute it are written once."""
        if expr not in self._names:
            self._names[expr] = self._written(expr)
        return self._names[expr]

    def _written(self, expr: Expr) -> str:
        match expr:
            case Source():
                self.inputs = expr.width
                return "x"
            case Embedded():
                return self._embedded(expr)
            case Recurrent():
                return self._recurrent(expr)
            case Added(x=x, other=other):
                assert x is not None
                return self._line("y", f"{self.of(x)} + {self.of(other)}")
            case Transformed(x=x, transform=transform):
                assert x is not None
                return self._line("y", f"torch.{transform}({self.of(x)}, dim=-1)")
            case Foreign():
                return self._foreign(expr)
            case Affine(x=x, sign=sign):
                assert x is not None
                name = self._module(expr, "constant", "buffer", {"shape": [expr.width]})
                self._tensor(name, expr.constant.expand(expr.width))
                return self._line("y", f"{self.of(x)} {sign} self.{name}")
            case Computed():
                return self._computed(expr)
        raise AssertionError(expr)

    def _embedded(self, expr: Embedded) -> str:
        if self.embedding:
            raise NoSkeletonError(
                "it looks its tokens up in several tables, and a custom step gets one row"
            )
        self.embedding, self.inputs = self._source(expr.table), expr.width
        return "x"

    def _foreign(self, expr: Foreign) -> str:
        inputs = [self.of(one) for one in expr.inputs]
        if expr.code:
            return self._line("y", expr.code.format(*inputs))
        self.lines.append(f"# TODO: {expr.where}: {expr.why}.")
        self.lines.append(f"# It was computed from {', '.join(inputs)}. Compute it for one step.")
        return self._line("y", f"x.new_zeros(len(x), {expr.width})")

    def _computed(self, expr: Computed) -> str:
        assert expr.x is not None
        given, part = self.of(expr.x), expr.part
        if isinstance(part, ActivationPart):
            function = {"gelu_tanh": "gelu"}.get(part.function, part.function)
            options = {"approximate": "tanh"} if part.function == "gelu_tanh" else part.options
            more = "".join(f", {name}={value!r}" for name, value in options.items())
            return self._line("y", f"F.{function}({given}{more})")
        kind, kwargs = _constructor(part, expr.x.width)
        name = self._module(expr, "layer", kind, kwargs)
        for key, tensor in expr.tensors.items():
            self._tensor(f"{name}.{key}", tensor)
        return self._line("y", f"self.{name}({given})")

    def _recurrent(self, expr: Recurrent) -> str:
        module: Any = expr.module
        if getattr(module, "bidirectional", False):
            raise NoSkeletonError(f"{expr.where} reads backwards too, so it has no step")
        assert expr.x is not None
        if isinstance(module, RecurrentLayers):
            raise NoSkeletonError(f"{expr.where} is a module of Carousel; give it to stack=")
        given = self.of(expr.x)
        kind = next(k for k in _RECURRENT if isinstance(module, k))
        cell, second = issubclass(kind, nn.RNNCellBase), kind in (nn.LSTM, nn.LSTMCell)
        name = self._module(expr, "rnn", f"nn.{kind.__name__}", _sizes(module))
        for key in (key for key, _ in kind(**_sizes(module), device="meta").named_parameters()):
            self._tensor(f"{name}.{key}", getattr(module, key))
        widths = [getattr(module, "proj_size", 0) or module.hidden_size, module.hidden_size]
        states = [f"{name}_{part}" for part in ("hc" if second else "h")]
        for state, width in zip(states, widths, strict=False):
            self.states[state] = (width,) if cell else (module.num_layers, width)
        begins = [""] * len(states)
        for place, tensor in enumerate(expr.initial):
            constant = self._module(expr, "begin", "buffer", {"shape": list(tensor.shape)})
            self._tensor(constant, tensor)
            begins[place] = f"self.{constant}"
        return self._call(name, given, cell, dict(zip(states, begins, strict=True)))

    def _call(self, name: str, given: str, cell: bool, states: dict[str, str]) -> str:
        """The lines of one step of a recurrent module. A state is stored without what it begins with."""
        for state, begin in states.items():
            if begin:
                self.lines.append(f"{state} = {state} + {begin}")
        named = _together(list(states))
        if cell:
            self.lines.append(f"{named} = self.{name}({given}, {named})")
            out = next(iter(states))
        else:
            out = self._fresh("y")
            for state in states:  # torch has the layers first, a state of a session the batch
                self.lines.append(f"{state} = {state}.transpose(0, 1).contiguous()")
            self.lines.append(f"{out}, {named} = self.{name}({given}[None], {named})")
            self.lines.append(f"{out} = {out}[0]")
            self.lines += [f"{state} = {state}.transpose(0, 1)" for state in states]
        for state, begin in states.items():
            if begin and cell:
                out = self._line("y", out) if state == out else out
            if begin:
                self.lines.append(f"{state} = {state} - {begin}")
        return out

    def _line(self, name: str, code: str) -> str:
        variable = self._fresh(name)
        self.lines.append(f"{variable} = {code}")
        return variable

    def _fresh(self, name: str) -> str:
        used = sum(line.startswith(name) for line in self.lines)
        return f"{name}{used}"

    def _module(self, expr: Expr, otherwise: str, kind: str, kwargs: dict[str, Any]) -> str:
        """An attribute of the new module, called as in the user's where that has a name."""
        found = re.match(r"([\w.]+) \(\w+\)", expr.where)
        name = re.sub(r"\W", "_", found[1]) if found and otherwise != "begin" else otherwise
        name = f"{name}_" if keyword.iskeyword(name) or not name.isidentifier() else name
        names = (name, *(f"{name}_{number}" for number in range(len(self.modules) + 1)))
        name = next(one for one in names if one not in self.modules)
        self.modules[name] = kind, kwargs
        return name

    def _tensor(self, name: str, tensor: Tensor) -> None:
        self.tensors[name] = self._source(tensor)

    def _source(self, tensor: Tensor) -> str:
        """A tensor of the user's module as Python, or its numbers where it is none of them."""
        for name, value in self.weights.items():
            if value.data_ptr() == tensor.data_ptr() and value.numel() == tensor.numel():
                if value.shape == tensor.shape:
                    return f"weights[{name!r}]"
                if value.dim() == 2 and value.t().shape == tensor.shape:
                    return f"weights[{name!r}].t()"
                return f"weights[{name!r}].reshape({list(tensor.shape)})"
        rows: Any = tensor.detach().cpu().float()
        if rows.numel() and bool((rows == rows.flatten()[0]).all()):
            return f"torch.full({list(rows.shape)}, {rows.flatten()[0].item()!r})"
        return f"torch.tensor({rows.tolist()!r})"


def _together(names: list[str]) -> str:
    return f"({', '.join(names)})" if len(names) > 1 else names[0]


_RECURRENT: tuple[Any, ...] = (nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.GRUCell, nn.RNNCell)


def _sizes(module: Any) -> dict[str, Any]:
    """Arguments of the constructor of a recurrent module."""
    found = {
        "input_size": module.input_size,
        "hidden_size": module.hidden_size,
        "bias": module.bias,
    }
    if isinstance(module, nn.RNNBase):
        found["num_layers"] = module.num_layers
    if isinstance(module, nn.LSTM) and module.proj_size:
        found["proj_size"] = module.proj_size
    if isinstance(module, nn.RNN | nn.RNNCell):
        found["nonlinearity"] = module.nonlinearity
    return found


def _constructor(part: Any, width: int) -> tuple[str, dict[str, Any]]:
    """The layer of torch that is a part, and its arguments."""
    match part:
        case LinearPart():
            sizes = {"in_features": width, "out_features": part.width, "bias": part.bias}
            return "nn.Linear", sizes
        case PReluPart():
            return "nn.PReLU", {"num_parameters": part.slopes}
        case NormPart(norm="rms"):
            return "nn.RMSNorm", {
                "normalized_shape": width, "eps": part.eps, "elementwise_affine": part.weight,
            }  # fmt: skip
        case NormPart():
            return "nn.LayerNorm", {
                "normalized_shape": width, "eps": part.eps, "elementwise_affine": part.weight,
                "bias": part.bias,
            }  # fmt: skip
    raise AssertionError(part)


def skeleton_of(attempt: Attempt, misfit: MisfitError, file: str) -> str:
    """A Python file with a custom module for a module.

    Args:
        attempt: the run that went furthest.
        misfit: why a manifest cannot describe the module.
        file: name of the Python module that the text will be.

    Raises:
        NoSkeletonError: the module has no step.
    """
    module = attempt.calling.module
    sketch = Sketch(dict(module.state_dict(keep_vars=True)))
    core, rows = _core(attempt)
    result = sketch.of(core)
    if not sketch.states:
        raise NoSkeletonError("it has no recurrent layer")
    if not attempt.calling.width and not sketch.embedding:
        raise NoSkeletonError("its tokens are not looked up in a table")
    ends = _ends(attempt.calling.width, sketch, rows)
    return custom_module(
        sketch, type(module).__name__, file, f"{misfit}", (result, core.width), ends
    )


def _ends(width: int, sketch: Sketch, rows: OwnRows | None) -> dict[str, str]:
    """The arguments of `save` beside the custom module."""
    ends = {"features": repr(width)}
    if sketch.embedding:
        table = f"nn.Embedding.from_pretrained({sketch.embedding})"
        ends = {"embedding": table}
    if rows is not None and rows.output.transform != "identity":
        ends["transform"] = repr(rows.output.transform)
    if rows is not None and rows.output.select.kind != "full":
        ends["select"] = repr(rows.output.select)
    ends["reference"] = "model" if rows is None else "own_rows(model)"
    return ends


def _core(attempt: Attempt) -> tuple[Expr, OwnRows | None]:
    """The rows to compute, and the module's own ones if its result has the form of rows."""
    try:
        outputs = outputs_of(attempt.read)
    except MisfitError as misfit:
        unknown = next((v for v in _flat(attempt.read) if isinstance(v, Unknown)), None)
        if unknown is None or not unknown.inputs:
            raise NoSkeletonError("nothing of it was understood") from misfit
        width = unknown.inputs[-1].width
        return Foreign(unknown.where, None, width, unknown.why, unknown.inputs), None
    rows = OwnRows(attempt.calling, outputs, attempt.read)
    return rows.core, rows


def _flat(read: Any) -> list[Any]:
    if isinstance(read, dict):
        read = tuple(read.values())
    if isinstance(read, tuple | list):
        return [value for part in read for value in _flat(part)]
    return [read]
