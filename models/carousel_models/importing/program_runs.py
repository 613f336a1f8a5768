"""Runs a step graph once or twice, to find its batch axis and the shapes of its outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from carousel_models.errors import PackageError
from carousel_models.probe import TOLERANCE
from carousel_models.program_spec import ProgramConstant
from carousel_models.programs import Port, Program
from carousel_models.programs.interface import Dimension

from .program_options import BATCH

_TWO, _THREE = 2, 3


class Found(NamedTuple):
    """Inputs and outputs with all dimensions known. `BATCH` is the batch axis, if there is one.

    Attributes:
        inputs: all but the constants.
        outputs: all.
        batched: True if one call takes many sessions.
        why: why it does not, for a person.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    batched: bool
    why: str


def find_shapes(
    program: Program, inputs: Sequence[Port], constants: Sequence[ProgramConstant], where: str
) -> Found:
    """The dimensions of all ports, by what the file declares and by runs with two and three sessions.

    Args:
        program: loaded on the CPU.
        inputs: all but the constants, with the shapes that were said.
        constants: the others.
        where: the file, for errors.

    Raises:
        PackageError: a dimension is open and cannot be the batch axis, or the program fails.
    """
    placed = tuple(_placed(port, _symbol(inputs), where) for port in inputs)
    fixed = [port.name for port in placed if BATCH not in (port.dims or ())]
    why = f"{fixed[0]} of {where} has no open dimension" if fixed else ""
    if not why:
        try:
            outputs = _batched_outputs(program, placed, constants)
        except Exception as error:  # noqa: BLE001 - a runtime may raise anything for such a batch
            why = f"it fails with more than one session ({_cause(error)})"
        else:
            if outputs is not None:
                return Found(placed, outputs, True, "")
            why = "a session has other numbers, or no output row of its own, with more than one session"
    alone = tuple(_alone(port) for port in placed)
    try:
        tensors = _run(program, alone, constants, 1)
    except Exception as error:  # likewise
        raise PackageError(
            f"{where} fails in a run with random rows and states of zeros: {_cause(error)}; say the "
            "shapes of its inputs with --shape NAME=DIMS, and numbers that must be special with --constant"
        ) from error
    outputs = tuple(
        Port(port.name, _dtype(tensor), tuple(tensor.shape))
        for port, tensor in zip(program.signature.outputs, tensors, strict=True)
    )
    return Found(alone, outputs, False, why)


def _symbol(ports: Sequence[Port]) -> str | None:
    """The name of the dimension that all ports share: the batch axis."""
    named = [{dim for dim in port.dims or () if isinstance(dim, str)} for port in ports]
    common = set.intersection(*named) if named else set()
    return BATCH if BATCH in common else common.pop() if len(common) == 1 else None


def _placed(port: Port, symbol: str | None, where: str) -> Port:
    """A port whose only open dimension is `BATCH`.

    Raises:
        PackageError: it has another one.
    """
    dims: tuple[Dimension, ...] | None = port.dims
    if dims is None:
        raise PackageError(
            f"{where} does not say the shape of {port.name!r}; say it with --shape {port.name}=DIMS, "
            "with B for the batch axis, as in --shape state=2,B,128"
        )
    said = BATCH if BATCH in dims else symbol
    open_axes = [axis for axis, dim in enumerate(dims) if not isinstance(dim, int)]
    chosen = [axis for axis in open_axes if said is not None and dims[axis] == said] or open_axes
    if len(open_axes) > 1 or len(chosen) > 1:
        raise PackageError(
            f"{where} leaves several dimensions of {port} open; say its shape for one step with --shape "
            f"{port.name}=DIMS, with B for the batch axis"
        )
    return port._replace(
        dims=tuple(BATCH if axis in chosen else dim for axis, dim in enumerate(dims))
    )


def _alone(port: Port) -> Port:
    return port._replace(dims=tuple(1 if dim == BATCH else dim for dim in port.dims or ()))


def _batched_outputs(
    program: Program, inputs: Sequence[Port], constants: Sequence[ProgramConstant]
) -> tuple[Port, ...] | None:
    """Outputs with their batch axes. None if one has none, or a session's numbers depend on the others."""
    runs = {batch: _run(program, inputs, constants, batch) for batch in (1, _TWO, _THREE)}
    found = []
    for place, port in enumerate(program.signature.outputs):
        one, two, three = (run[place] for run in runs.values())
        if not one.dim() == two.dim() == three.dim():
            return None
        axes = [a for a in range(two.dim()) if (two.shape[a], three.shape[a]) == (_TWO, _THREE)]
        if len(axes) != 1:
            return None
        first = two.narrow(axes[0], 0, 1)
        if first.shape != one.shape or not _close(first, one):
            return None
        dims = tuple(BATCH if a == axes[0] else size for a, size in enumerate(two.shape))
        found.append(Port(port.name, _dtype(two), dims))
    return tuple(found)


def _run(
    program: Program, inputs: Sequence[Port], constants: Sequence[ProgramConstant], batch: int
) -> list[Tensor]:
    """Outputs of seeded rows. The first session has the same row in each batch."""
    fixed = {c.name: torch.full(c.shape, c.value, dtype=getattr(torch, c.dtype)) for c in constants}
    names = [port.name for port in inputs]
    call = program.bind(names, [port.name for port in program.signature.outputs], fixed)
    with torch.inference_mode():
        return [tensor.clone() for tensor in call([_sample(port, batch) for port in inputs])]


def _sample(port: Port, batch: int) -> Tensor:
    dims = port.dims or ()
    dtype = getattr(torch, port.dtype)
    axis = dims.index(BATCH) if BATCH in dims else None
    shape = [size for size in dims if isinstance(size, int)]
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(shape, generator=generator) for _ in range(1 if axis is None else batch)]
    if not (dtype.is_floating_point or dtype.is_complex):
        rows = [row.abs().clamp(max=1).round() for row in rows]
    return (rows[0] if axis is None else torch.stack(rows, axis)).to(dtype).contiguous()


def _close(found: Tensor, expected: Tensor) -> bool:
    if not (expected.is_floating_point() or expected.is_complex()):
        return bool(torch.equal(found, expected))
    half = expected.dtype in (torch.float16, torch.bfloat16)
    tolerance = TOLERANCE["bfloat16" if half else "float32"]
    return torch.allclose(found, expected, rtol=tolerance, atol=tolerance, equal_nan=True)


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _cause(error: Exception) -> str:
    """The line that says what is wrong: the last one, but onnxruntime's last one is general advice."""
    lines = (str(error).strip() or repr(error)).splitlines()
    if lines[0].startswith("[ONNXRuntimeError]"):
        lines = [" ".join(line.strip() for line in lines if "Please fix" not in line)]
    return lines[-1][:200]
