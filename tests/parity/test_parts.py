"""Parts around the cells, against their formulas in float64, and how their bits depend on the batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from carousel_models import load
from carousel_models.creating import random_tensors
from carousel_models.errors import KernelError
from carousel_models.kernels import Reference, choose
from carousel_models.loading import build
from carousel_models.row_functions import ACTIVATIONS, build_chain
from carousel_models.row_parts import (
    OPTIONS,
    Activation,
    ActivationPart,
    LinearPart,
    NormPart,
    PReluPart,
    ScalePart,
    SkipPart,
)
from carousel_models.spec import (
    ChainHead,
    FeaturesInput,
    LayerSpec,
    Manifest,
    MlpHead,
    TokensInput,
    uniform_stack,
)
from tests.parity import reference
from tests.parity.conftest import MakePackage
from tests.parity.test_equations import assert_equals_equations

TUNED = [
    ActivationPart(function="leaky_relu", options={"negative_slope": 0.3}),
    ActivationPart(function="elu", options={"alpha": 0.7}),
    ActivationPart(function="celu", options={"alpha": 2.0}),
    ActivationPart(function="softplus", options={"beta": 2.0, "threshold": 1.0}),
    ActivationPart(function="hardtanh", options={"min_val": -0.2, "max_val": 0.6}),
]
PARTS = [
    *(ActivationPart(function=name) for name in get_args(Activation)),
    *TUNED,
    PReluPart(),
    PReluPart(slopes=6),
    NormPart(),
    NormPart(eps=0.1, bias=False),
    NormPart(eps=1e-9, weight=False, bias=False),
    NormPart(norm="rms", bias=False),
    NormPart(norm="rms", eps=0.5, weight=False, bias=False),
    ScalePart(),
    SkipPart(parts=(LinearPart(width=9), ActivationPart(function="mish"), LinearPart(width=6))),
]


@pytest.mark.parametrize("part", PARTS, ids=str)
def test_a_part_is_its_formula(make_package: MakePackage, part: Any) -> None:
    """Behind a wide linear layer, so that numbers of both signs and some beyond 1 enter it."""
    head = ChainHead(parts=(LinearPart(width=6), ScalePart(), part))
    assert_equals_equations(make_package(stack=uniform_stack("gru", 1, 40), head=head))


@pytest.mark.parametrize("name", get_args(Activation))
def test_an_activation_is_its_formula_far_from_zero(name: Any) -> None:
    x = torch.cat((torch.linspace(-30, 30, 2001), torch.linspace(-1, 1, 501)))
    wanted = reference.ACTIVATIONS[name](x.double().numpy())
    found = ACTIVATIONS[name].run(x)
    torch.testing.assert_close(found.double(), torch.from_numpy(wanted), rtol=1e-5, atol=1e-6)


def test_every_option_of_an_activation_is_used() -> None:
    assert {part.function for part in TUNED} == set(OPTIONS)
    assert {name for part in TUNED for name in part.options} == {
        name for options in OPTIONS.values() for name in options
    }


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("source", ["tokens", "features"])
def test_parts_are_computed_in_their_places(
    make_package: MakePackage, source: str, dtype: str
) -> None:
    front: Any = (LinearPart(width=8), NormPart(eps=1e-3), ActivationPart(function="leaky_relu"))
    inputs = {
        "tokens": TokensInput(vocabulary=9, embedding=5, front=front),
        "features": FeaturesInput(width=5, front=front),
    }
    block = LayerSpec(
        cell="lstm", hidden=6, residual=True, layer_norm=True,
        before=(NormPart(norm="rms", bias=False), LinearPart(width=7)),
        between=(LinearPart(width=8, bias=False), ScalePart()),
        after=(ActivationPart(function="elu"), LinearPart(width=5)),
    )  # fmt: skip
    last = LayerSpec(cell="gru", hidden=4, bidirectional=True, between=(NormPart(),))
    for stack in ((block,), (block, last)):
        package = make_package(input=inputs[source], stack=stack, dtype=dtype)
        assert_equals_equations(package)


@pytest.mark.parametrize("part", PARTS, ids=str)
def test_nan_stays_visible(part: Any) -> None:
    """Only so a state that is NaN shows in the outputs of the same step."""
    shapes = part.shapes(6)
    tensors = {f"p.0.{name}": torch.rand(shape) for name, shape in shapes.items()}
    if isinstance(part, SkipPart):
        shapes = {name: torch.rand(shape) for name, shape in part.shapes(6).items()}
        tensors = {f"p.0.{name}": value for name, value in shapes.items()}
    chain = build_chain(Reference(), (part,), tensors, "p")
    assert chain is not None
    for rows in (1, 3, 40):
        assert chain(torch.full((rows, 6), float("nan"))).isnan().all()


@pytest.mark.parametrize("width", [1, 3, 8, 17, 64])
@pytest.mark.parametrize("part", PARTS[:-1], ids=str)
def test_only_positional_parts_depend_on_their_place(part: Any, width: int) -> None:
    if isinstance(part, PReluPart):
        part = PReluPart(slopes=1 if part.slopes == 1 else width)
    positional = isinstance(part, ActivationPart) and ACTIVATIONS[part.function].positional
    tensors = {f"p.0.{name}": torch.rand(shape) for name, shape in part.shapes(width).items()}
    chain = build_chain(Reference(), (part,), tensors, "p")
    assert chain is not None
    x = torch.randn(160, width) * 3
    whole = chain(x)
    for batch in (1, 2, 3, 7, 16, 33):
        for start in (0, 1, 37):
            same = torch.equal(chain(x[start : start + batch].clone()), whole[start:][:batch])
            assert same or positional


def model_with(**fields: Any) -> Any:
    kernel = choose("cpu", torch.device("cpu"))
    fields = {"input": FeaturesInput(width=6), "stack": uniform_stack("gru", 1, 6)} | fields
    manifest = Manifest(name="m", fingerprint="0" * 64, **fields)
    return build(manifest, random_tensors(manifest, 0), kernel=kernel)


def test_a_positional_part_anywhere_ends_invariance() -> None:
    try:
        model_with()
    except KernelError as error:
        pytest.skip(str(error))
    steady: Any = (ActivationPart(function="leaky_relu"), NormPart(), ScalePart())
    shaky: Any = (ActivationPart(function="elu"),)
    hidden: Any = (SkipPart(parts=shaky),)
    for parts, invariant in ((steady, True), (shaky, False), (hidden, False)):
        layer = {"cell": "gru", "hidden": 6}
        for fields in (
            {"input": FeaturesInput(width=6, front=parts)},
            {"stack": (LayerSpec(**layer, before=parts),)},
            {"stack": (LayerSpec(**layer, between=parts),)},
            {"stack": (LayerSpec(**layer, after=parts),)},
            {"head": ChainHead(parts=parts)},
        ):
            assert model_with(**fields).batch_invariant is invariant
    assert not model_with(head=MlpHead(hidden=(3,), width=2, activation="elu")).batch_invariant


def test_a_package_with_parts_is_loaded_as_it_was_written(make_package: MakePackage) -> None:
    package = make_package(
        stack=(LayerSpec(cell="gru", hidden=5, after=(NormPart(eps=1e-3),)),),
        head=ChainHead(parts=(ActivationPart(function="softplus"), LinearPart(width=2))),
    )
    model = load(package)
    assert model.manifest.output_width == 2
    assert '"eps": 0.001' in Path(package / "manifest.json").read_text()
