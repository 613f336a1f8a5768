from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from carousel_models import PackageError
from carousel_models.spec import (
    Architecture,
    CustomSpec,
    FeaturesInput,
    LayerSpec,
    LinearHead,
    Manifest,
    Normalization,
    Output,
    SelectTopK,
    StateDeclaration,
    TokensInput,
    uniform_stack,
)
from carousel_models.tensors import expected_tensors

FEATURES = FeaturesInput(width=4)
GRU = uniform_stack("gru", 1, 8)
TEXT = {"input": TokensInput(vocabulary=50, embedding=4), "head": LinearHead(width=50)}


def manifest(**fields: Any) -> Manifest:
    defaults: dict[str, Any] = {
        "input": FEATURES,
        "stack": GRU,
        "name": "m",
        "fingerprint": "0" * 64,
    }
    return Manifest(**defaults | fields)


def test_importing_the_package_and_the_spec_needs_no_torch() -> None:
    code = (
        "import sys, carousel_models; assert 'pydantic' not in sys.modules\n"
        "import carousel_models.spec, carousel_models.tokenizer, carousel_models.package\n"
        "carousel_models.discover, carousel_models.zoo_path, carousel_models.read_manifest\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_is_there() -> None:
    import carousel_models

    for name in carousel_models.__all__:
        assert getattr(carousel_models, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = carousel_models.no_such_name


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"colour": "red"}, "colour"),
        ({"name": "../evil"}, "name"),
        ({"name": ""}, "name"),
        ({"fingerprint": "abc"}, "fingerprint"),
        ({"stack": ()}, "either `stack`"),
        ({"labels": ("a", "b")}, "2 labels for 8 outputs"),
        ({"tokenizer": "bytes"}, "needs an input of kind tokens"),
        ({"input": TokensInput(vocabulary=50, embedding=4), "tokenizer": "bytes"}, "at least 256"),
        ({"eos": 3}, "eos ends generated texts"),
        (TEXT | {"eos": 50}, "eos must be tokens from 0 to 49"),
        (TEXT | {"eos": (1, -1)}, "eos"),
        (TEXT | {"eos": True}, "eos"),
        (TEXT | {"eos": (1,) * 65}, "eos"),
        ({"output": Output(select=SelectTopK(k=9))}, "top_k asks for 9 of 8"),
        ({"dtype": "float16"}, "dtype"),
        ({"tokenizer": {"kind": "huggingface", "file": "../../secret"}}, "tokenizer"),
        ({"format": 2}, "format"),
    ],
    ids=str,
)
def test_manifests_that_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        manifest(**fields)


@pytest.mark.parametrize(("written", "tokens"), [("3", (3,)), ("[3, 4]", (3, 4)), ("[]", ())])
def test_eos_is_a_token_or_several(written: str, tokens: tuple[int, ...]) -> None:
    text = manifest(**TEXT).model_dump_json().replace('"eos":[]', f'"eos":{written}')
    assert Manifest.model_validate_json(text).eos_tokens == tokens


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LayerSpec(cell="gru", hidden=8, proj_size=2), r"of lstm, .* only"),
        (lambda: LayerSpec(cell="lstm", hidden=8, proj_size=8), "smaller than hidden"),
        (lambda: LayerSpec(cell="lstm", hidden=0), "hidden"),
        (lambda: LayerSpec(cell="lstm", hidden=1 << 17), "hidden"),
        (lambda: LayerSpec(cell="lstm", hidden="8"), "hidden"),  # type: ignore[arg-type]
        (lambda: LayerSpec(cell="mystery", hidden=8), "cell"),  # type: ignore[arg-type]
        (lambda: TokensInput(vocabulary=1 << 21, embedding=4), "vocabulary"),
        (lambda: FeaturesInput(width=2, normalization=Normalization(mean=(0.0,), std=(1.0,))), "2 means"),
        (lambda: Normalization(mean=(0.0,), std=(0.0,)), "std"),
        (lambda: Normalization(mean=(float("nan"),), std=(1.0,)), "mean"),
        (lambda: StateDeclaration(name="s", shape=(1 << 16, 1 << 16)), "elements at most"),
        (lambda: CustomSpec(module="os", states=(), width=1), "module"),
        (
            lambda: CustomSpec(module="a:B", states=(StateDeclaration(name="s", shape=()),) * 2, width=1),
            "same name",
        ),
        (
            lambda: Architecture(input=FEATURES, stack=(LayerSpec(cell="gru", hidden=8, residual=True),)),
            "4 in, 8 out",
        ),
        (lambda: Architecture(input=FEATURES, stack=GRU * 65), "stack"),
    ],
)  # fmt: skip
def test_parts_that_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        make()


def test_fingerprints_of_custom_modules_stay_what_they_are() -> None:
    """A state that must be finite, as before there was a choice, looks in JSON as it did then."""
    plain, free = (
        StateDeclaration(name="s", shape=(2,)),
        StateDeclaration(name="s", shape=(2,), finite=False),
    )
    assert plain.model_dump(mode="json") == {"name": "s", "shape": [2], "dtype": "float32"}
    assert free.model_dump(mode="json") == plain.model_dump(mode="json") | {"finite": False}
    for one in (plain, free):
        assert StateDeclaration.model_validate_json(one.model_dump_json()) == one
    spec = CustomSpec(module="a:B", states=(plain,), width=1)
    assert "finite" not in spec.model_dump_json()


def test_manifests_are_frozen_and_survive_json() -> None:
    one = manifest(training={"data": "noise", "quality": {"loss": 0.5}}, description="d")
    assert Manifest.model_validate_json(one.model_dump_json()) == one
    with pytest.raises(ValidationError, match="frozen"):
        one.name = "other"


def test_too_many_parameters_are_refused_before_any_tensor() -> None:
    huge = Architecture(
        input=FeaturesInput(width=1 << 16), stack=uniform_stack("lstm", 64, 1 << 16)
    )
    with pytest.raises(PackageError, match=r"parameters, more than the limit.*smaller sizes"):
        expected_tensors(huge)


def test_derived_properties() -> None:
    model = manifest(
        input=TokensInput(vocabulary=300, embedding=4),
        stack=(LayerSpec(cell="lstm", hidden=8, proj_size=3), LayerSpec(cell="gru", hidden=6)),
        head=LinearHead(width=300),
    )
    assert (model.cell, model.hidden, model.vocabulary) == ("lstm+gru", 8, 300)
    assert model.causal
    assert model.generative
    assert not manifest().generative
    assert manifest().cell == "gru"
    assert type(model.architecture) is Architecture


def test_expected_tensors_of_a_projected_bidirectional_lstm() -> None:
    layer = LayerSpec(cell="lstm", hidden=8, proj_size=3, bidirectional=True, layer_norm=True)
    model = Architecture(input=FEATURES, stack=(layer,), head=LinearHead(width=2), dtype="bfloat16")
    found = expected_tensors(model)
    for direction in ("forward", "backward"):
        assert found[f"stack.0.{direction}.weight_ih"] == ((32, 4), "bfloat16")
        assert found[f"stack.0.{direction}.weight_hh"] == ((32, 3), "bfloat16")
        assert found[f"stack.0.{direction}.weight_hr"] == ((3, 8), "bfloat16")
        assert found[f"stack.0.{direction}.bias_hh"] == ((32,), "float32")
    assert found["stack.0.norm.weight"] == ((6,), "float32")
    assert found["head.0.weight"] == ((2, 6), "bfloat16")
    assert len(found) == 14
