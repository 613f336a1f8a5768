from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from carousel_models.row_functions import ACTIVATIONS, NORMS
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
    Architecture,
    ChainHead,
    FeaturesInput,
    LayerSpec,
    Projection,
    TokensInput,
    uniform_stack,
)
from carousel_models.tensors import expected_tensors


def architecture(**fields: Any) -> Architecture:
    return Architecture(
        **({"input": FeaturesInput(width=3), "stack": uniform_stack("gru", 1, 4)} | fields)
    )


def test_every_activation_and_norm_has_code() -> None:
    assert set(ACTIVATIONS) == set(get_args(Activation))
    assert set(NORMS) == set(get_args(NormPart.model_fields["norm"].annotation))
    assert set(OPTIONS) <= set(ACTIVATIONS)


def test_defaults_are_not_written_so_older_fingerprints_stay() -> None:
    layer = LayerSpec(cell="gru", hidden=4)
    assert {"before", "between", "after"}.isdisjoint(layer.model_dump(mode="json"))
    assert "front" not in FeaturesInput(width=3).model_dump(mode="json")
    assert "front" not in TokensInput(vocabulary=3, embedding=2).model_dump()
    assert "eps" not in NormPart().model_dump(mode="json")
    assert "options" not in ActivationPart(function="elu").model_dump(mode="json")
    assert NormPart(eps=1e-3).model_dump(mode="json")["eps"] == 1e-3


def test_parts_survive_json() -> None:
    made = architecture(
        input=FeaturesInput(width=3, front=(ScalePart(), LinearPart(width=4))),
        stack=(
            LayerSpec(
                cell="gru",
                hidden=4,
                before=(NormPart(norm="rms", eps=0.5, bias=False),),
                after=(ActivationPart(function="elu", options={"alpha": 2.0}),),
            ),
        ),
        head=ChainHead(parts=(SkipPart(parts=(LinearPart(width=4),)), PReluPart(slopes=4))),
    )
    assert Architecture.model_validate_json(made.model_dump_json()) == made
    assert json.loads(made.model_dump_json())["head"]["parts"][0]["kind"] == "skip"


def test_tensors_are_named_by_place() -> None:
    made = architecture(
        input=FeaturesInput(width=3, front=(LinearPart(width=5), NormPart(bias=False))),
        stack=(
            LayerSpec(
                cell="gru", hidden=4, residual=True, layer_norm=True,
                before=(ScalePart(),), between=(LinearPart(width=5, bias=False),),
                after=(PReluPart(),),
            ),
        ),
        head=ChainHead(parts=(SkipPart(parts=(NormPart(), LinearPart(width=5))), PReluPart())),
    )  # fmt: skip
    shapes = {name: info.shape for name, info in expected_tensors(made).items()}
    cell = {name: shapes.pop(name) for name in list(shapes) if ".forward." in name}
    assert cell["stack.0.forward.weight_ih"] == (12, 5)
    assert shapes == {
        "front.0.weight": (5, 3), "front.0.bias": (5,), "front.1.weight": (5,),
        "stack.0.before.0.weight": (5,), "stack.0.before.0.bias": (5,),
        "stack.0.between.0.weight": (5, 4),
        "stack.0.norm.weight": (5,), "stack.0.norm.bias": (5,), "stack.0.after.0.weight": (1,),
        "head.0.0.weight": (5,), "head.0.0.bias": (5,),
        "head.0.1.weight": (5, 5), "head.0.1.bias": (5,), "head.1.weight": (1,),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        (
            {"input": FeaturesInput.model_construct(
                width=3, front=(PReluPart(slopes=2),), projection=None)},
            "prelu has 2 slopes for rows of 3; give 1 or all",
        ),
        (
            {"head": ChainHead(parts=(SkipPart(parts=(LinearPart(width=9),)),))},
            "a skip adds rows of 9 to rows of 4; give equal widths",
        ),
        (
            {"stack": (LayerSpec(cell="gru", hidden=3, residual=True,
                                 between=(LinearPart(width=2),)),)},
            "layer 0 is residual but its widths differ: 3 in, 2 out",
        ),
    ],
)  # fmt: skip
def test_widths_that_do_not_fit_are_refused(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        architecture(**fields)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (
            lambda: ActivationPart(function="elu", options={"beta": 1.0}),
            "no option of elu 'beta', only alpha; leave it out",
        ),
        (
            lambda: ActivationPart(function="hardtanh", options={"min_val": 2.0}),
            "hardtanh needs min_val < max_val",
        ),
        (
            lambda: ActivationPart(function="celu", options={"alpha": 0.0}),
            "celu divides by its options; give none that is 0",
        ),
        (lambda: NormPart(norm="rms"), "an rms norm has no bias; give bias=false"),
        (
            lambda: FeaturesInput(
                width=3, projection=Projection(width=2), front=(LinearPart(width=2),)
            ),
            "give a projection or a front, and not both",
        ),
    ],
)
def test_parts_that_contradict_themselves_are_refused(make: Any, problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        make()
