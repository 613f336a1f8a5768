"""Chains of parts with the native kernel: a row's bits are the same in any batch and in whole sequences."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from unit.models.chains import made, random_rows

from carousel_models import stack_kinds
from carousel_models.chain_parts import ConvPart, LayersPart, RowConvPart, RowsPart
from carousel_models.errors import KernelError
from carousel_models.joining_parts import AddPart, ConcatPart, MultiplyPart
from carousel_models.kernels import Kernel, choose
from carousel_models.row_parts import ActivationPart, LinearPart, NormPart
from carousel_models.spec import LayerSpec, uniform_stack
from carousel_models.spectral_parts import (
    IrfftPart,
    MagnitudePart,
    PhasePart,
    PolarPart,
    RfftPart,
    WindowPart,
)
from carousel_models.stack_kinds import AnyStackPart

WIDTH = 30


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    try:
        return choose("cpu", torch.device("cpu"))
    except KernelError as unavailable:
        pytest.skip(f"the cpu kernel: {unavailable}")


def rows(name: str, *parts: Any, **more: Any) -> RowsPart:
    return RowsPart(name=name, parts=parts, **more)


CHAINS: dict[str, tuple[Any, ...]] = {
    "everything": (
        rows("front", LinearPart(width=20), ActivationPart(function="relu"), NormPart()),
        ConvPart(name="conv", channels=12, kernel=3, dilation=2),
        ConvPart(name="depth", channels=24, kernel=5, groups=12),
        ConvPart(name="groups", channels=9, kernel=2, groups=3),
        LayersPart(name="lstm", layers=uniform_stack("lstm", 2, 14)),
        RowConvPart(name="inner", channels=3, kernel=3, inputs=2),
        ConcatPart(name="end", from_=("inner", "front")),
    ),
    "spectra": (
        WindowPart(name="window", window="hann"),
        RfftPart(name="spectrum"),
        MagnitudePart(name="magnitude"),
        LayersPart(name="gru", layers=uniform_stack("gru", 1, 16)),
        AddPart(name="sum", from_=("gru", "magnitude")),
        MultiplyPart(name="masked", from_=("spectrum", "sum")),
        IrfftPart(name="frame", samples=WIDTH),
    ),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", CHAINS)
def test_a_rows_bits_are_the_same_in_any_batch(kernel: Kernel, name: str, dtype: str) -> None:
    model, _ = made(WIDTH, *CHAINS[name], kernel=kernel, dtype=dtype)
    assert model.batch_invariant
    x = random_rows(300, WIDTH)
    state = tuple(random_rows(300, *spec.shape) for spec in model.state_specs)
    with torch.inference_mode():
        y, after = model.step(x, state)
        for first, last in [(i, i + 1) for i in range(0, 300, 23)] + [(0, n) for n in range(2, 30)]:
            alone, own = model.step(x[first:last], tuple(t[first:last] for t in state))
            for part, whole in zip((alone, *own), (y, *after), strict=True):
                assert torch.equal(part, whole[first:last]), (first, last)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", CHAINS)
def test_whole_sequences_have_the_bits_of_steps(kernel: Kernel, name: str, dtype: str) -> None:
    model, _ = made(WIDTH, *CHAINS[name], kernel=kernel, dtype=dtype)
    lengths = [9, 1, 0, 14, 14]
    x = random_rows(len(lengths), 14, WIDTH)
    with torch.inference_mode():
        y, after = model.sequence(x, torch.tensor(lengths))
        for number, length in enumerate(lengths):
            state = model.initial_state(1)
            for step in range(length):
                row, state = model.step(x[number, step][None], state)
                assert torch.equal(row[0], y[number, step]), (number, step)
            for own, whole in zip(state, after, strict=True):
                assert torch.equal(own[0], whole[number])


@pytest.mark.parametrize(
    "parts",
    [
        (rows("a", ActivationPart(function="sigmoid")),),
        (PhasePart(name="a"),),
        (PolarPart(name="a", from_=("input", "input")),),
        (LayersPart(name="a", layers=uniform_stack("min_gru", 1, 8)),),
        (
            LayersPart(
                name="a",
                layers=(LayerSpec(cell="gru", hidden=8, after=(ActivationPart(function="silu"),)),),
            ),
        ),
    ],
    ids=["sigmoid", "phase", "polar", "min_gru", "silu after a gru"],
)
def test_only_what_was_measured_is_called_invariant(kernel: Kernel, parts: Any) -> None:
    model, _ = made(WIDTH, *parts, kernel=kernel)
    assert not model.batch_invariant


def test_each_kind_of_part_is_in_a_chain_here() -> None:
    """So a new kind says whether its bits depend on the batch."""
    kinds = {part.kind for chain in CHAINS.values() for part in chain}
    known = {
        kind.model_fields["kind"].default
        for kind in AnyStackPart.__origin__.__args__  # type: ignore[attr-defined]
    }
    assert known - kinds == {"program", "phase", "polar"}


def test_all_kinds_can_be_imported_from_one_place() -> None:
    names = {kind.__name__ for kind in AnyStackPart.__origin__.__args__}  # type: ignore[attr-defined]
    assert names | {"AnyStackPart"} == set(stack_kinds.__all__)
