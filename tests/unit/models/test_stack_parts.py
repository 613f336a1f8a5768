"""Parts of a stack: names, sources and widths, and how they run one after the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from unit.programs.graphs import equations, write_onnx

from carousel_models import load, read_manifest
from carousel_models.probe import run_steps, run_whole
from carousel_models.program_spec import ProgramConstant, ProgramPart, ProgramPort, ProgramState
from carousel_models.programs.files import digest
from carousel_models.spec import Architecture, FeaturesInput, LinearHead, Manifest, uniform_stack
from carousel_models.states import StateDeclaration
from carousel_models.tensors import expected_tensors
from carousel_models.writing import write


def part(name: str = "a", **changes: Any) -> ProgramPart:
    fields: dict[str, Any] = {
        "name": name,
        "runtime": "onnx",
        "file": "step.onnx",
        "sha256": "0" * 64,
        "input": ProgramPort(name="x", shape=(3,)),
        "output": ProgramPort(name="y", shape=(2,)),
        "carried": (ProgramState(name="h", shape=(4,), enters="h", leaves="h_out"),),
    }
    return ProgramPart(**fields | changes)


def wide(name: str, width: int, **changes: Any) -> ProgramPart:
    return part(name, input=ProgramPort(name="x", shape=(width,)), **changes)


def of(*parts: ProgramPart, **fields: Any) -> Architecture:
    return Architecture(**{"input": FeaturesInput(width=3), "parts": parts} | fields)


def test_widths_follow_from_the_parts() -> None:
    one = of(part("a"), wide("b", 5, **{"from": ("a", "input")}), head=LinearHead(width=7))
    assert (one.stack_width, one.output_width, one.causal, one.cell) == (2, 7, True, "program")
    assert [(p.sources, p.entering, p.leaving) for p in one.placed] == [
        ((0,), 3, 2),
        ((1, 0), 5, 2),
    ]
    assert [(s.name, s.shape) for s in one.states] == [("a.h", (4,)), ("b.h", (4,))]
    assert one.foreign == "program 'step.onnx' and program 'step.onnx'"


def test_states_keep_what_they_declare() -> None:
    state = ProgramState(
        name="h", shape=(4,), enters="h", leaves="h_out", dtype="int32", finite=False, initial=3
    )
    found = of(part(carried=(state,), context=1, input=ProgramPort(name="x", shape=(4,)))).states
    assert found == (
        StateDeclaration(name="a.h", shape=(4,), dtype="int32", finite=False, initial=3),
        StateDeclaration(name="a.context", shape=(1,)),
    )


def test_fingerprints_of_stacks_without_parts_stay_what_they_are() -> None:
    plain = Architecture(input=FeaturesInput(width=3), stack=uniform_stack("gru", 1, 4))
    assert "parts" not in plain.model_dump(mode="json", by_alias=True)
    made = of(part("a"), wide("b", 5, **{"from": ("a", "input")}))
    dumped = made.model_dump(mode="json", by_alias=True)
    assert dumped["parts"][1]["from"] == ["a", "input"]
    assert Architecture.model_validate_json(made.model_dump_json(by_alias=True)) == made


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: of(), "either `stack`"),
        (lambda: of(part(), stack=uniform_stack("gru", 1, 4)), "only one"),
        (lambda: of(part("a"), part("a")), "two parts have the name 'a'|reads 3 numbers"),
        (lambda: of(part("a"), wide("b", 2, from_=("c",))), "reads from 'c', which is not an earlier part"),
        (lambda: of(part("a"), part("b", from_=("input",))), "no part reads from 'a'"),
        (lambda: of(part("input")), "two parts have the name 'input'"),
        (lambda: of(part("a"), part("b")), "reads 3 numbers a step, but its rows have 2"),
        (lambda: of(part(context=1)), "its rows have 3 and its context 1"),
        (lambda: part("A"), "name"),
        (lambda: part(file="../step.onnx"), "file"),
        (lambda: part(file="a/step.onnx"), "file"),
        (lambda: part(sha256="0"), "sha256"),
        (lambda: part(runtime="python"), "runtime"),
        (lambda: part(output=ProgramPort(name="h_out", shape=(2,))), "'h_out' of .* is used twice"),
        (lambda: part(constants=(ProgramConstant(name="x", value=1),)), "'x' of .* is used twice"),
        (lambda: part(output=ProgramPort(name="y", shape=(1 << 10, 1 << 10))), "of at most"),
        (lambda: ProgramConstant(name="k", value=1, shape=(1 << 16, 1 << 16)), "elements at most"),
        (lambda: part(context=3), "smaller than the program's input"),
        (
            lambda: part(
                carried=(ProgramState(name="context", shape=(1,), enters="h", leaves="g"),), context=1
            ),
            "same name",
        ),
        (lambda: ProgramPort(name="x", shape=(3,), axis=2), "beyond its dimensions"),
        (lambda: ProgramState(name="h", shape=(), enters="h", leaves="g", axis=1), "beyond"),
    ],
)  # fmt: skip
def test_parts_that_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        make()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Two programs: b reads the rows of a and one number more of the input's."""
    data = write_onnx(tmp_path / "step.onnx").read_bytes()
    first = part("a", sha256=digest(data))
    second = part("b", sha256=digest(data), from_=("a",), context=1)
    architecture = of(first, second)
    manifest = Manifest(
        name="m", fingerprint="0" * 64, input=architecture.input, parts=architecture.parts
    )
    assert expected_tensors(manifest) == {}
    write(tmp_path / "m", manifest, {}, files={"step.onnx": data})
    return tmp_path / "m"


def test_parts_run_one_after_the_other(package: Path) -> None:
    model = load(package)
    assert read_manifest(package).parts[1].from_ == ("a",)
    assert [spec.name for spec in model.state_specs] == ["a.h", "b.h", "b.context"]
    x = torch.randn(25, 3, generator=torch.Generator().manual_seed(2))
    rows = equations(x.numpy())
    before = np.concatenate(([0.0], rows[:-1, -1]))
    expected = equations(np.concatenate((before[:, None], rows), axis=1))
    for found in (run_steps(model, x), run_whole(model, x)):
        np.testing.assert_allclose(found.numpy(), expected, atol=5e-6)


def test_sequences_of_different_lengths_keep_their_own_states(package: Path) -> None:
    model = load(package)
    x, lengths = torch.randn(4, 6, 3), torch.tensor([6, 1, 0, 4])
    with torch.inference_mode():
        raw, state = model.sequence(x, lengths)
        for number, length in enumerate(lengths.tolist()):
            alone, after = model.initial_state(1), []
            for row in x[number, :length]:
                y, alone = model.step(row[None], alone)
                after.append(y)
            if after:
                torch.testing.assert_close(
                    raw[number, :length], torch.cat(after), rtol=0, atol=1e-6
                )
            for whole, last in zip(state, alone, strict=True):
                torch.testing.assert_close(whole[number], last[0], rtol=0, atol=1e-6)


def test_states_of_earlier_parts_can_be_infinite_unseen(package: Path) -> None:
    assert load(package).unseen_states == (0, 1, 2)
