"""Reads a whole module for `save`, and compares its own results with those of the package."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from carousel_models.agreement import SEQUENCES, STEPS
from carousel_models.errors import PackageError
from carousel_models.from_torch import Modules, Normalizing
from carousel_models.model import RecurrentModel
from carousel_models.probe import tolerance_of

from .calls import Sizes
from .module import Attempt, Whole, read_module
from .refusal import refusal

_PARTS = ("stack", "embedding", "projection", "head", "residual", "norms", "custom")

LAST_STEP = (
    "the module gives the row of the last step only; its package gives a row after each step, as if the "
    "sequence ended there"
)

DECISIONS = (
    "the module's code reads numbers of its rows at {lines}; a package has no branches, so it always goes "
    "the way of the sample. Ignore this where the code only checks its input. Use a custom module where it "
    "decides"
)


def read_whole(
    model: nn.Module,
    modules: Modules,
    normalization: Normalizing | None,
    example: Any,
    skeleton: Path | str | None,
) -> Whole:
    """Reads a module.

    Args:
        model: the user's.
        modules: the other arguments of `save`. Only `features` may be given, the input's width, where it does
            not follow from the module.
        normalization: likewise, of the features. It must not be given.
        example: arguments of one call.
        skeleton: a file for a custom module, if a manifest cannot describe the module.

    Raises:
        PackageError: a manifest cannot describe the module, it cannot be run, or other parts were given.
    """
    if not isinstance(model, nn.Module):
        raise PackageError(
            f"model= is a {type(model).__name__}; give a torch.nn.Module, or bring a file with "
            "carousel_models.import_file"
        )
    named = {name: getattr(modules, name) for name in _PARTS} | {"normalization": normalization}
    also = [name for name, value in named.items() if _is_given(value)]
    if also:
        raise PackageError(
            f"model= is a whole module, from which all parts follow, and {', '.join(also)} came with it; "
            "give the whole module alone, or stack= and the other parts"
        )
    whole = read_module(model, modules.features, example)
    if isinstance(whole, Attempt):
        raise refusal(whole, skeleton)
    if whole.rows.last_only:
        warnings.warn(LAST_STEP, stacklevel=3)
    if whole.decisions:
        warnings.warn(DECISIONS.format(lines=", ".join(whole.decisions)), stacklevel=3)
    return whole


def check_results(model: RecurrentModel, whole: Whole) -> None:
    """Compares the fields of a package's rows with the module's own results, on seeded sequences.

    Raises:
        PackageError: they differ.
    """
    if model.plain or whole.rows.output != model.manifest.output:
        return  # the rows themselves are compared
    x = whole.rows.calling.sample(Sizes(SEQUENCES, STEPS))
    with torch.inference_mode():
        raw, _ = model.sequence(x, torch.full((SEQUENCES,), STEPS))
        found = model.finish(raw)
    wanted = whole.rows.results(x)
    names = [field[0] for field in model.output_fields]
    for expr, values in zip(whole.rows.outputs, wanted, strict=True):
        name = getattr(expr.expr, "field", names[0])
        here = found[names.index(name)]
        off = _difference(here.reshape(values.shape), values)
        if not off <= tolerance_of(model):
            raise PackageError(
                f"the package would not be the module: its field {name} differs by {off:.3g}; a part of the "
                "module was not seen, as a hook or code that torch does not run"
            )


def _difference(found: Tensor, wanted: Tensor) -> float:
    """The greatest relative difference, or the share of unequal numbers where these are places."""
    if not wanted.is_floating_point():
        return float((found.long() != wanted.long()).float().mean())
    wanted = wanted.float()
    return float(((found - wanted).abs() / (1 + wanted.abs())).max())


def _is_given(value: Any) -> bool:
    if isinstance(value, Sequence):
        return len(value) > 0
    return value is not None and value is not False
