"""Every cell and option against the equations in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from carousel_models import load
from carousel_models.spec import (
    FeaturesInput,
    LayerSpec,
    LinearHead,
    MlpHead,
    NoHead,
    Normalization,
    Output,
    Projection,
    SelectArgmax,
    SelectFull,
    SelectTopK,
    TokensInput,
    uniform_stack,
)
from tests.parity import reference
from tests.parity.conftest import (
    KERNELS,
    TOLERANCE,
    MakePackage,
    difference,
    random_input,
    run_steps,
    run_whole,
)

CELLS = ["rnn_tanh", "rnn_relu", "lstm", "gru", "gru_reset_before"]
"""The cells with torch's weights."""

DTYPES = ["float32", "bfloat16"]
STEPS = 12


def assert_equals_equations(package: Any) -> None:
    for kernel in KERNELS:
        model = load(package, kernel=kernel)
        x = random_input(model.manifest, STEPS)
        expected = reference.run_raw(package, x)
        assert np.abs(expected).max() > 1e-3  # otherwise nothing was compared
        tolerance = TOLERANCE[model.manifest.dtype]
        assert difference(run_whole(model, x), expected) <= tolerance
        if model.causal:
            assert difference(run_steps(model, x), expected) <= tolerance


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("cell", CELLS)
def test_uniform_stacks(
    make_package: MakePackage, cell: Any, layers: int, bias: bool, bidirectional: bool, dtype: str
) -> None:
    stack = uniform_stack(cell, layers, 11, bias=bias, bidirectional=bidirectional)
    assert_equals_equations(make_package(stack=stack, dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
def test_lstm_with_projection(
    make_package: MakePackage, layers: int, bidirectional: bool, dtype: str
) -> None:
    stack = uniform_stack("lstm", layers, 11, proj_size=4, bidirectional=bidirectional)
    assert_equals_equations(make_package(stack=stack, dtype=dtype))


NEWER: list[dict[str, Any]] = [
    {"cell": "lstm", "options": {"peepholes": True}},
    {"cell": "lstm", "options": {"peepholes": True}, "proj_size": 5},
    {"cell": "min_gru"},
    {"cell": "min_gru", "options": {"positive": True}, "proj_size": 15},
    {"cell": "min_lstm"},
    {"cell": "min_lstm", "options": {"positive": True}, "proj_size": 5},
    {"cell": "slstm"},
    {"cell": "slstm", "options": {"heads": 3}},
    {"cell": "mlstm"},
    {"cell": "mlstm", "options": {"heads": 4}},
    {"cell": "diagonal"},
    {"cell": "diagonal", "options": {"skip": True}, "proj_size": 5},
    {"cell": "mamba"},
    {"cell": "mamba", "options": {"state_size": 3, "conv_width": 2, "dt_rank": 2}, "proj_size": 5},
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("layer", NEWER, ids=str)
def test_newer_cells(
    make_package: MakePackage, layer: dict[str, Any], bias: bool, dtype: str
) -> None:
    stack = (LayerSpec(hidden=12, bias=bias, **layer),)
    assert_equals_equations(make_package(stack=stack, dtype=dtype))


@pytest.mark.parametrize("layer", [*NEWER, *({"cell": cell} for cell in CELLS)], ids=str)
def test_layers_that_read_from_the_end(make_package: MakePackage, layer: dict[str, Any]) -> None:
    """Also in a batch with sequences of other lengths, each of which has an end of its own."""
    stack = (LayerSpec(hidden=12, backward=True, **layer), LayerSpec(cell="gru", hidden=4))
    package = make_package(stack=stack)
    assert_equals_equations(package)
    model, lengths = load(package), (5, 12, 1, 5)
    inputs = [random_input(model.manifest, length, length) for length in lengths]
    x = np.zeros((len(lengths), max(lengths), 5), np.float32)
    for row, one in zip(x, inputs, strict=True):
        row[: len(one)] = one
    with torch.inference_mode():
        raw, state = model.sequence(torch.from_numpy(x), torch.tensor(lengths))
    assert state == ()
    for found, one in zip(raw.numpy(), inputs, strict=True):
        expected = reference.run_raw(package, one)
        assert difference(found[: len(one)], expected) <= TOLERANCE["float32"]


@pytest.mark.parametrize("layer", NEWER, ids=str)
def test_newer_cells_among_others(make_package: MakePackage, layer: dict[str, Any]) -> None:
    """Two directions, a residual and a norm, before and after another cell."""
    projection, size = Projection(width=5), layer.get("proj_size", 12)
    spec = {"hidden": 12, "layer_norm": True, **layer}
    stack = (
        LayerSpec(residual=size == 5, **spec),
        LayerSpec(cell="gru", hidden=5),
        LayerSpec(bidirectional=True, **spec),
    )
    source = FeaturesInput(width=3, projection=projection)
    assert_equals_equations(make_package(input=source, stack=stack))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_residuals_and_norms(
    make_package: MakePackage,
    cell: Any,
    residual: bool,
    layer_norm: bool,
    bidirectional: bool,
    dtype: str,
) -> None:
    width = 12
    hidden = width // 2 if bidirectional else width
    layer = LayerSpec(
        cell=cell,
        hidden=hidden,
        residual=residual,
        layer_norm=layer_norm,
        bidirectional=bidirectional,
    )
    package = make_package(input=FeaturesInput(width=width), stack=(layer, layer), dtype=dtype)
    assert_equals_equations(package)


def test_layers_of_different_kinds_and_sizes(make_package: MakePackage) -> None:
    stack = (
        LayerSpec(cell="gru", hidden=7, bidirectional=True),
        LayerSpec(cell="lstm", hidden=9, proj_size=3),
        LayerSpec(cell="gru_reset_before", hidden=5, bias=False),
    )
    assert_equals_equations(make_package(stack=stack))


HEADS = [
    NoHead(),
    LinearHead(width=6),
    LinearHead(width=6, bias=False),
    *(
        MlpHead(hidden=(7,), width=6, activation=a)
        for a in ("relu", "tanh", "sigmoid", "gelu", "silu")
    ),
    MlpHead(hidden=(7, 8), width=6, bias=False),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head", HEADS, ids=str)
def test_heads(make_package: MakePackage, head: Any, dtype: str) -> None:
    assert_equals_equations(make_package(stack=uniform_stack("gru", 1, 10), head=head, dtype=dtype))


INPUTS = [
    TokensInput(vocabulary=30, embedding=6),
    TokensInput(vocabulary=30, embedding=6, projection=Projection(width=8)),
    FeaturesInput(width=3, projection=Projection(width=8, bias=False)),
    FeaturesInput(
        width=3,
        normalization=Normalization(mean=(10.0, -2.0, 0.5), std=(3.0, 0.1, 7.0)),
        projection=Projection(width=8),
    ),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("source", INPUTS, ids=lambda source: str(source)[:60])
def test_inputs(make_package: MakePackage, source: Any, dtype: str) -> None:
    assert_equals_equations(
        make_package(input=source, stack=uniform_stack("lstm", 1, 10), dtype=dtype)
    )


@pytest.mark.parametrize("select", [SelectFull(), SelectTopK(k=3), SelectArgmax()], ids=str)
@pytest.mark.parametrize("transform", ["identity", "softmax", "sigmoid", "log_softmax"])
def test_transforms_and_selections(make_package: MakePackage, transform: Any, select: Any) -> None:
    output = Output(transform=transform, select=select)
    package = make_package(
        stack=uniform_stack("gru", 1, 10), head=LinearHead(width=9), output=output
    )
    model = load(package)
    x = random_input(model.manifest, STEPS)
    fields = model.finish(torch.from_numpy(run_whole(model, x)))
    expected = reference.run(package, x)
    assert [name for name, _, _ in model.output_fields] == list(expected)
    for (name, dtype, shape), tensor in zip(model.output_fields, fields, strict=True):
        assert tensor.dtype == dtype
        assert tuple(tensor.shape) == (STEPS, *shape)
        if dtype == torch.int32:
            np.testing.assert_array_equal(tensor.numpy(), expected[name])
        else:
            assert difference(tensor.numpy(), expected[name]) <= TOLERANCE["float32"]


def test_the_two_grus_differ(make_package: MakePackage) -> None:
    """Same weights, both forms: if they agreed, the tests above could not tell them apart."""
    rows = []
    for cell in ("gru", "gru_reset_before"):
        package = make_package(stack=uniform_stack(cell, 1, 10))
        model = load(package)
        rows.append(run_whole(model, random_input(model.manifest, STEPS)))
    assert difference(rows[0], rows[1]) > 0.01
