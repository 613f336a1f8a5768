"""What Triton's clients call a model's tensors: part of the manifest, not of the fingerprint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from carousel_models import load, read_manifest, save
from carousel_models.spec import (
    FeaturesInput,
    Manifest,
    Output,
    SelectArgmax,
    SelectTopK,
    TokensInput,
    TritonNames,
    TritonTensor,
    uniform_stack,
)
from carousel_server.core.limits import EngineLimits
from carousel_server.engine.describe import describe

INPUT = TritonTensor(name="INPUT", datatype="INT32")
OUTPUT = TritonTensor(name="OUTPUT", datatype="FP32")
BOTH = TritonNames(input=INPUT, outputs=(OUTPUT,))


def manifest(triton: TritonNames, **fields: Any) -> Manifest:
    defaults: dict[str, Any] = {
        "input": FeaturesInput(width=4),
        "stack": uniform_stack("gru", 1, 8),
        "name": "m",
        "fingerprint": "0" * 64,
        "triton": triton,
    }
    return Manifest(**defaults | fields)


def test_names_may_be_given_for_input_and_outputs_or_for_none() -> None:
    assert manifest(BOTH).triton.input == INPUT
    assert manifest(TritonNames()).triton.outputs == ()
    top = Output(select=SelectTopK(k=2))
    second = TritonTensor(name="PLACES", datatype="INT64")
    assert len(manifest(TritonNames(outputs=(OUTPUT, second)), output=top).triton.outputs) == 2


@pytest.mark.parametrize(
    ("triton", "fields", "message"),
    [
        (TritonNames(outputs=(OUTPUT, INPUT)), {}, "2 triton outputs for 1 fields"),
        (BOTH, {"output": Output(select=SelectTopK(k=2))}, "1 triton outputs for 2 fields"),
        (
            TritonNames(input=OUTPUT), {"input": TokensInput(vocabulary=9, embedding=4)},
            "tokens are integers",
        ),
        (
            TritonNames(outputs=(OUTPUT, OUTPUT)), {"output": Output(select=SelectTopK(k=2))},
            "two triton outputs have the same name",
        ),
    ],
)  # fmt: skip
def test_names_that_do_not_fit(triton: TritonNames, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        manifest(triton, **fields)


SHAPED = TritonTensor(name="INPUT", datatype="FP32", dims=(1, 4))


@pytest.mark.parametrize(
    ("triton", "fields"),
    [
        (TritonNames(input=SHAPED), {}),
        (TritonNames(outputs=(TritonTensor(name="Y", datatype="FP32", dims=(2, 1, 4)),)), {}),
        (
            TritonNames(input=TritonTensor(name="T", datatype="INT64", dims=(1, 1))),
            {"input": TokensInput(vocabulary=9, embedding=4)},
        ),
        (
            TritonNames(outputs=(TritonTensor(name="I", datatype="INT64", dims=(1, 1)),)),
            {"output": Output(select=SelectArgmax())},
        ),
    ],
)
def test_dims_that_fit(triton: TritonNames, fields: dict[str, Any]) -> None:
    assert manifest(triton, **fields).triton == triton


@pytest.mark.parametrize(
    ("triton", "fields", "message"),
    [
        (
            TritonNames(input=SHAPED),
            {"input": FeaturesInput(width=5)},
            r"dims \[1, 4\], but its field has 5",
        ),
        (
            TritonNames(outputs=(SHAPED,)),
            {},
            r"'INPUT' has dims \[1, 4\], but its field has 8 numbers",
        ),
        (
            TritonNames(outputs=(SHAPED,)),
            {"output": Output(select=SelectArgmax())},
            "has 1 numbers",
        ),
    ],
)
def test_dims_that_do_not_fit(triton: TritonNames, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        manifest(triton, **fields)


def test_a_datatype_that_the_door_does_not_speak() -> None:
    with pytest.raises(ValidationError):
        TritonTensor(name="x", datatype="BYTES")  # type: ignore[arg-type]


def test_names_travel_with_the_package_and_leave_its_fingerprint_alone(tmp_path: Path) -> None:
    torch.manual_seed(1)
    stack = torch.nn.GRU(4, 8)
    named = save(tmp_path / "named", name="m", stack=stack, triton=BOTH)
    plain = save(tmp_path / "plain", name="m", stack=stack)
    assert named.fingerprint == plain.fingerprint
    assert read_manifest(tmp_path / "named").triton == BOTH
    view = describe(load(tmp_path / "named"), EngineLimits(), strict=False)
    assert view.triton_input == ("INPUT", "INT32", ())
    assert view.triton_outputs == (("OUTPUT", "FP32", ()),)
    view = describe(load(tmp_path / "plain"), EngineLimits(), strict=False)
    assert (view.triton_input, view.triton_outputs) == (None, ())
