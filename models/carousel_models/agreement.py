"""Compares a model with the user's own: a reference module, given outputs, or the custom module itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .errors import PackageError
from .model import RecurrentModel
from .probe import (
    MAX_STEPS,
    on_device,
    plain_loop,
    run_steps,
    sample_input,
    tokens_valid,
    tolerance_of,
)
from .spec import TokensInput

Reference = nn.Module | Callable[[Tensor], Any] | tuple[Any, Any]
"""What `save` compares with."""

SEQUENCES, STEPS = 3, 32
"""Input of a reference module."""

_TYPES = {"float32": torch.float32, "int32": torch.int64, "int16": torch.int16}
"""The type that a model takes for each type of a row."""

_HINT = (
    "the reference gives rows before `transform` and `select`, of inputs as clients send them, before "
    "`normalization`"
)


def agreed_probe(model: RecurrentModel, reference: Reference) -> dict[str, Tensor]:
    """Compares a model with its reference on whole sequences.

    Args:
        model: as it will be written, on the CPU.
        reference: a module or function of x, float32[3, 32, features] or int64[3, 32], that returns rows
            [3, 32, outputs], or a tuple that begins with them; a pair (inputs, outputs) of such shapes with
            any number of sequences and steps, or of one sequence. Time may be the first dimension.

    Returns:
        A probe: the first sequence and the reference's own rows.

    Raises:
        PackageError: they differ. It has the first step that differs, and the difference.
    """
    if isinstance(reference, tuple):
        x, expected = _given(model, reference)
        found = _run(model, x)
        _refuse_difference(model, found, expected)
    else:
        x = _sample(model)
        found = _run(model, x)
        expected = _answers(model, reference, x, found)
    dtype = getattr(torch, model.manifest.input.row.dtype)
    return {"input": x[0].to(dtype).contiguous(), "raw": expected[0].contiguous()}


def check_same(made: RecurrentModel, given: RecurrentModel, module: nn.Module) -> None:
    """Compares a custom module as a server makes it with the user's one.

    Args:
        made: built on the former.
        given: built on the latter, on its device.
        module: the latter.

    Raises:
        PackageError: they differ.
    """
    x = sample_input(made, STEPS, torch.Generator().manual_seed(0))
    with as_served(module):
        try:
            expected = plain_loop(given, x).cpu()
        except Exception as error:  # foreign code may raise anything
            raise PackageError(f"the custom module that was given fails: {error!r}") from error
    found = run_steps(made, x).cpu()
    place = _first_difference(found[None], expected[None], tolerance_of(made))
    if place is not None:
        assert made.manifest.custom is not None
        _, step, off = place
        raise PackageError(
            f"the custom module that was given and the one that a server makes, {made.manifest.custom.module}"
            f"(**{made.manifest.custom.kwargs}) with the same tensors, differ at step {step} by {off:.3g}; "
            "the given one holds something that is neither in kwargs nor in its state_dict (an attribute set "
            "later, a buffer with persistent=False, a hook): put it there"
        )


@contextmanager
def as_served(module: nn.Module) -> Iterator[None]:
    """Eval mode without gradients. Afterwards modes and random numbers are as before."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            yield
    finally:
        for part, training in modes:
            part.training = training


def device_of(module: nn.Module) -> torch.device:
    """The device of a module's first tensor, or the CPU if it has none."""
    tensors = chain(module.parameters(), module.buffers())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


def _sample(model: RecurrentModel) -> Tensor:
    rows = sample_input(model, SEQUENCES * STEPS, torch.Generator().manual_seed(0))
    return on_device(model, rows).reshape(SEQUENCES, STEPS, *rows.shape[1:])


def _run(model: RecurrentModel, x: Tensor) -> Tensor:
    with torch.inference_mode():
        return model.sequence(x, torch.full((x.shape[0],), x.shape[1]))[0].clone()


def _answers(
    model: RecurrentModel, reference: nn.Module | Callable[[Tensor], Any], x: Tensor, found: Tensor
) -> Tensor:
    """The reference's rows, batch first. A reference with time first is found by its agreement."""
    problems: list[tuple[int, PackageError]] = []
    for time_first in (False, True):
        try:
            expected = _call(reference, x.transpose(0, 1) if time_first else x)
            expected = expected.transpose(0, 1) if time_first else expected
            _check_rows(model, expected, x)
            _refuse_difference(model, found, expected)
        except _DiffersError as differs:
            problems.append((differs.step, differs))
        except PackageError as refused:
            problems.append((-1, refused))
        else:
            return expected
    # The layout that agrees for more steps is the reference's.
    raise max(problems, key=lambda problem: problem[0])[1]


def _call(reference: nn.Module | Callable[[Tensor], Any], x: Tensor) -> Tensor:
    is_module = isinstance(reference, nn.Module)
    module = reference if isinstance(reference, nn.Module) else nn.Identity()
    device = device_of(module) if is_module else x.device
    try:
        with as_served(module):
            answer = reference(x.to(device).clone())
    except Exception as error:  # foreign code may raise anything
        raise PackageError(
            f"the reference fails on x {list(x.shape)}: {error!r}; give a function of x, as in "
            "reference=lambda x: model(x)"
        ) from error
    rows = answer[0] if isinstance(answer, tuple | list) and len(answer) else answer
    if not isinstance(rows, Tensor):
        raise PackageError(
            f"the reference gives a {type(rows).__name__}; it must give a tensor of rows"
        )
    if rows.is_complex():
        raise PackageError(f"the reference gives {rows.dtype}; it must give real rows")
    if rows.dim() < 2:
        raise PackageError(f"the reference gives {list(rows.shape)} for x {list(x.shape)}; {_HINT}")
    return rows.detach().cpu().to_dense().float()


def _given(model: RecurrentModel, pair: tuple[Any, Any]) -> tuple[Tensor, Tensor]:
    """Inputs and outputs as tensors, sequences first."""
    if len(pair) != 2:
        raise PackageError(f"the reference is a tuple of {len(pair)}; give (inputs, outputs)")
    x, expected = _tensor(pair[0], "inputs"), _tensor(pair[1], "outputs")
    if x.is_complex() or expected.is_complex():
        raise PackageError("the reference's arrays are complex; give real ones")
    source = model.manifest.input
    width = list(source.row.shape)
    if x.dim() == 1 + len(width):
        x, expected = x[None], expected[None]
    shape = list(x.shape)
    if len(shape) != 2 + len(width) or shape[2:] != width or not shape[0]:
        wanted = ", ".join(map(str, ["sequences", "steps", *width]))
        raise PackageError(f"the reference's inputs are {shape}; give [{wanted}]")
    if not 0 < shape[1] <= MAX_STEPS:
        raise PackageError(f"the reference has {shape[1]} steps; give 1 to {MAX_STEPS}")
    if not bool(x.float().isfinite().all()):
        raise PackageError("the reference's inputs hold NaN or infinity; give finite ones")
    given, x = x, x.to(_TYPES[source.row.dtype])
    if not x.is_floating_point() and not bool((x == given).all()):
        what = "tokens that are not whole" if source.row.dtype == "int32" else "no samples of int16"
        raise PackageError(f"the reference's inputs hold {what}; give whole numbers of its range")
    tokens = model.manifest.input_tokens
    if isinstance(source, TokensInput) and not tokens_valid(x, tokens):
        raise PackageError(
            f"the reference's inputs hold tokens outside 0 … {tokens - 1}; give others"
        )
    expected = expected.float()
    _check_rows(model, expected, x)
    return x, expected


def _tensor(part: Any, name: str) -> Tensor:
    """The user's inputs or outputs as a tensor: a tensor, an array, or lists of these or of numbers."""
    if isinstance(part, Tensor):
        return part.detach().cpu().to_dense()
    parts = [part, *part] if isinstance(part, list | tuple) else [part]
    if any(isinstance(one, np.ma.MaskedArray) for one in parts):
        raise PackageError(
            f"the reference's {name} are a masked array, whose masked elements have no value; fill them, as "
            "with array.filled(0), or give other sequences"
        )
    try:
        return torch.from_numpy(np.array(part))
    except (TypeError, ValueError, RuntimeError) as error:
        raise PackageError(
            f"the reference's {name} cannot become a tensor: {error}; give a tensor, or an array of numbers"
        ) from error


def _check_rows(model: RecurrentModel, expected: Tensor, x: Tensor) -> None:
    shape = (*x.shape[:2], model.manifest.output_width)
    if tuple(expected.shape) != shape:
        raise PackageError(
            f"the reference gives {list(expected.shape)} for x {list(x.shape)}, the package would give "
            f"{list(shape)}; give one row per step, with sequences first: {_HINT}"
        )
    if not bool(expected.isfinite().all()):
        raise PackageError("the reference gives NaN or infinity; correct its weights or its inputs")


class _DiffersError(PackageError):
    """A difference, and its first step."""

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


def _refuse_difference(model: RecurrentModel, found: Tensor, expected: Tensor) -> None:
    place = _first_difference(found, expected, tolerance_of(model))
    if place is None:
        return
    sequence, step, off = place
    wanted, here = (_shown(rows[sequence, step]) for rows in (expected, found))
    raise _DiffersError(
        f"the package would not be the reference: sequence {sequence} differs from step {step} on, by "
        f"{off:.3g} (reference {wanted}, package {here}); a part of the reference is not among the modules "
        f"given, as a learnable initial state (give it as initial=), a hook or an own forward; {_HINT}",
        step,
    )


def _shown(row: Tensor) -> str:
    values: Sequence[float] = row[:3].tolist()
    return "[" + ", ".join(f"{v:.5g}" for v in values) + (", …]" if len(row) > 3 else "]")


def _first_difference(
    found: Tensor, expected: Tensor, tolerance: float
) -> tuple[int, int, float] | None:
    """Sequence, step and relative difference of the earliest step that differs. Rows are [N, T, W]."""
    off = ((found - expected).abs() / (1 + expected.abs())).amax(dim=2)
    wrong = ~(off <= tolerance)  # NaN is wrong too
    if not bool(wrong.any()):
        return None
    step = int(wrong.any(dim=0).nonzero()[0])
    sequence = int(wrong[:, step].nonzero()[0])
    return sequence, step, float(off[sequence, step])
