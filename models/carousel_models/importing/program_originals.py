"""Runs a step graph's file in its own library, by a plain loop, as the reference of an import."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from carousel_models.agreement import Reference
from carousel_models.program_spec import ProgramPart, ProgramPort, ProgramState
from carousel_models.programs import torchscript_archive
from carousel_models.programs.onnx_program import onnxruntime

from . import pt2_sealed

Step = Callable[[dict[str, Tensor]], dict[str, Tensor]]
"""One step: inputs by name to outputs by name."""


def _onnx(path: Path, part: ProgramPart) -> Reference:
    """The file in a plain session of onnxruntime, with its default options."""
    runtime = onnxruntime()
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [port.name for port in session.get_outputs()]

    def step(feed: dict[str, Tensor]) -> dict[str, Tensor]:
        found = session.run(None, {name: tensor.numpy() for name, tensor in feed.items()})
        return dict(zip(names, map(torch.from_numpy, found), strict=True))

    return _loop(part, step)


def _torchscript(path: Path, part: ProgramPart) -> Reference:
    """The module as torch.jit.load gives it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        data = io.BytesIO(torchscript_archive.sealed(path.read_bytes(), path.name))
        module = torch.jit.load(data)  # type: ignore[no-untyped-call]
    names = [argument.name for argument in module.forward.schema.arguments[1:]]

    def argument(name: str, feed: dict[str, Tensor]) -> Any:
        if name in feed:
            return feed[name]
        return tuple(feed[key] for key in feed if key.rpartition(".")[0] == name)

    def step(feed: dict[str, Tensor]) -> dict[str, Tensor]:
        given = [argument(name, feed) for name in names]
        plain = {one.name for one in part.constants}
        scalars = [
            value.item() if name in plain and not _is_tensor(module, number) else value
            for number, (name, value) in enumerate(zip(names, given, strict=True))
        ]
        return {str(n): tensor for n, tensor in enumerate(_leaves(module(*scalars)))}

    return _loop(part, step)


def _pt2(path: Path, part: ProgramPart) -> Reference:
    """The module as torch.export.load gives it, from records without pickles and code."""
    exported = torch.export.load(pt2_sealed.sealed(path.read_bytes()))
    module, spec = exported.module(), exported.call_spec.in_spec
    users = [name for name in exported.graph_signature.user_inputs if isinstance(name, str)]

    def step(feed: dict[str, Tensor]) -> dict[str, Tensor]:
        flat = [feed[name] for name in users]
        args, kwargs = pytree.tree_unflatten(flat, spec)
        found = module(*args, **kwargs)
        if isinstance(found, dict):
            return dict(found)
        return {str(n): tensor for n, tensor in enumerate(_leaves(found))}

    return _loop(part, step)


def _loop(part: ProgramPart, step: Step) -> Reference:
    """Rows [N, T, W] of inputs [N, T, F]. Each sequence runs by itself, from the initial state."""
    fixed = {
        c.name: torch.full(c.shape, c.value, dtype=getattr(torch, c.dtype)) for c in part.constants
    }

    def rows(x: Tensor) -> Tensor:
        return torch.stack([sequence(one) for one in x])

    def sequence(x: Tensor) -> Tensor:
        state = {
            one.enters: torch.full(_dims(one, part), one.initial, dtype=getattr(torch, one.dtype))
            for one in part.carried
        }
        context, found = torch.zeros(part.context), []
        for row in x:
            joined = torch.cat((context, row))
            entering = joined.reshape(_dims(part.input, part)).to(getattr(torch, part.input.dtype))
            out = step({part.input.name: entering, **state, **fixed})
            state = {one.enters: out[one.leaves].contiguous() for one in part.carried}
            context = joined[len(joined) - part.context :]
            found.append(out[part.output.name].reshape(-1).float())
        return torch.stack(found)

    return rows


def _dims(port: ProgramPort | ProgramState, part: ProgramPart) -> tuple[int, ...]:
    """The program's dimensions for one session."""
    if part.batch == "one":
        return port.shape
    return (*port.shape[: port.axis], 1, *port.shape[port.axis :])


def _leaves(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    parts: Sequence[Any] = value
    return [tensor for part in parts for tensor in _leaves(part)]


def _is_tensor(module: Any, number: int) -> bool:
    return bool(module.forward.schema.arguments[number + 1].type.kind() == "TensorType")


ORIGINALS: dict[str, Callable[[Path, ProgramPart], Reference]] = {
    "onnx": _onnx,
    "torchscript": _torchscript,
    "pt2": _pt2,
}
"""What runs the original of each runtime. One entry for each name in `program_spec.RuntimeName`."""
