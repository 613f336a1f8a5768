"""Step graphs become packages, whose rows are those of the equations and of the file's own library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor
from unit.programs.graphs import (
    HIDDEN,
    IN,
    ScaledStep,
    Step,
    equations,
    write_onnx,
    write_pt2,
    write_script,
)

from carousel_models import PackageError, RecurrentModel, check, import_file, load
from carousel_models.probe import run_steps, run_whole

FLOAT = TensorProto.FLOAT
SHAPES = ("x=B,3", "h=1,B,4")


def imported(file: Path, **options: Any) -> tuple[RecurrentModel, list[str]]:
    """The model of a file, and the notes."""
    notes: list[str] = []
    folder = file.parent / "out"
    import_file(
        file, name="m", dir=folder, note=notes.append, check=True, overwrite=True, **options
    )
    return load(folder / "m"), notes


def follows_the_equations(model: RecurrentModel, gain: float = 1.0) -> None:
    x = torch.randn(20, IN, generator=torch.Generator().manual_seed(3))
    expected = equations(x.numpy(), gain)
    for rows in (run_steps(model, x), run_whole(model, x)):
        np.testing.assert_allclose(rows.numpy(), expected, atol=2e-6)


@pytest.mark.parametrize(
    "names", [("x", "h", "y", "h_out"), ("input", "state", "output", "stateN"), ("a", "h0", "b", "hn"),
              ("frame", "c_in", "z", "c_out"), ("x:0", "prev/h", "y:0", "next/h")]
)  # fmt: skip
def test_states_of_onnx_graphs_are_found_by_name_or_shape(tmp_path: Path, names: Any) -> None:
    model, notes = imported(write_onnx(tmp_path / "step.onnx", names=names))
    (part,) = model.manifest.parts
    assert (part.input.name, part.output.name) == (names[0], names[2])
    assert [(s.enters, s.leaves) for s in part.carried] == [(names[1], names[3])]
    assert part.batch == "symbolic"
    assert f"states: {names[1]}:{names[3]}" in notes[0]
    assert notes[-1] == "the package gives the original's rows"
    follows_the_equations(model)


@pytest.mark.parametrize("batch", ["batch", None])
def test_the_batch_axis_may_stand_anywhere_and_have_no_name(tmp_path: Path, batch: Any) -> None:
    model, _ = imported(write_onnx(tmp_path / "step.onnx", batch=batch, axis=1))
    (part,) = model.manifest.parts
    assert (part.carried[0].axis, part.carried[0].shape) == (1, (1, HIDDEN))
    assert model.state_specs[0].name == "program.h"
    follows_the_equations(model)


def test_a_graph_for_one_session_runs_session_by_session(tmp_path: Path) -> None:
    model, notes = imported(write_onnx(tmp_path / "step.onnx", batch=1, axis=1))
    (part,) = model.manifest.parts
    assert part.batch == "one"
    assert any("each session is a call of its own" in n and "no open dimension" in n for n in notes)
    follows_the_equations(model)
    assert model.stack.batch_invariant
    x, state = torch.randn(5, IN), model.initial_state(5)
    with torch.inference_mode():
        together = model.step(x, state)[0]
        alone = torch.cat([model.step(row[None], model.initial_state(1))[0] for row in x])
    assert torch.equal(together, alone)


def test_a_graph_that_fails_with_two_sessions_runs_session_by_session(tmp_path: Path) -> None:
    """The batch axis is open in the file, but a reshape inside has one row."""
    one = [helper.make_node("Reshape", ["y", "shape"], ["flat"])]
    file = write_onnx(tmp_path / "step.onnx", nodes=one, outputs=[
        helper.make_tensor_value_info("flat", FLOAT, [1, 2])
    ])  # fmt: skip
    model = onnx.load(file)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 2]), "shape"))
    onnx.save(model, file)
    made, notes = imported(file, output="y")
    assert made.manifest.parts[0].batch == "one"
    assert any("fails with more than one session" in note for note in notes)
    assert any(note == "outputs that nothing reads: flat" for note in notes)
    follows_the_equations(made)


def test_constants_are_said(tmp_path: Path) -> None:
    model, _ = imported(write_onnx(tmp_path / "step.onnx", gain=True), constant=["gain=0.5"])
    assert model.manifest.parts[0].constants[0].value == 0.5
    follows_the_equations(model, gain=0.5)


def test_the_context_is_a_state(tmp_path: Path) -> None:
    """Rows of two numbers, with the last one of the row before in front."""
    model, _ = imported(write_onnx(tmp_path / "step.onnx"), context=1)
    assert model.manifest.input.raw_width == IN - 1
    assert [spec.name for spec in model.state_specs] == ["program.h", "program.context"]
    samples = np.random.default_rng(5).standard_normal(1 + 2 * 30).astype(np.float32)
    samples[0] = 0  # a session begins with silence
    rows = np.lib.stride_tricks.sliding_window_view(samples, 3)[::2]
    x = torch.from_numpy(samples[1:].reshape(30, 2).copy())
    for found in (run_steps(model, x), run_whole(model, x)):
        np.testing.assert_allclose(found.numpy(), equations(rows), atol=2e-6)


def test_a_context_longer_than_a_row_keeps_the_numbers_of_several_rows(tmp_path: Path) -> None:
    model, _ = imported(write_onnx(tmp_path / "step.onnx"), context=2)
    samples = np.random.default_rng(5).standard_normal(2 + 20).astype(np.float32)
    samples[:2] = 0
    rows = np.lib.stride_tricks.sliding_window_view(samples, 3)
    x = torch.from_numpy(samples[2:, None].copy())
    np.testing.assert_allclose(run_steps(model, x).numpy(), equations(rows), atol=2e-6)


@pytest.mark.parametrize("trace", [(), (torch.zeros(2, IN), torch.zeros(1, 2, HIDDEN))])
def test_torchscript_files_scripted_and_traced(tmp_path: Path, trace: tuple[Tensor, ...]) -> None:
    file = write_script(tmp_path / "step.ts", Step(), trace=trace)
    model, _ = imported(file, shape=SHAPES)
    assert model.manifest.parts[0].runtime == "torchscript"
    follows_the_equations(model)


def test_torchscript_with_tuples_and_plain_numbers(tmp_path: Path) -> None:
    file = write_script(tmp_path / "step.pt", ScaledStep())
    shapes = ["x=B,3", "state.0=B,4", "state.1=B,1:int64"]
    model, _ = imported(file, shape=shapes, constant=["gain=0.5"], state=["state.1:2"])
    assert [(s.name, s.dtype) for s in model.state_specs] == [
        ("program.state.0", torch.float32),
        ("program.state.1", torch.int64),
    ]
    follows_the_equations(model, gain=0.5)


@pytest.mark.parametrize("dynamic", [True, False])
def test_files_of_torch_export(tmp_path: Path, dynamic: bool) -> None:
    model, _ = imported(write_pt2(tmp_path / "step.pt2", Step(), dynamic=dynamic))
    part = model.manifest.parts[0]
    assert (part.runtime, part.batch) == ("pt2", "symbolic" if dynamic else "one")
    follows_the_equations(model)


def test_names_of_a_returned_dictionary_pair_its_states(tmp_path: Path) -> None:
    class Named(Step):
        def forward(self, x: Tensor, h: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
            y, h = super().forward(x, h)
            return {"h_next": h, "y": y}

    model, _ = imported(write_pt2(tmp_path / "step.pt2", Named()))
    assert model.manifest.parts[0].carried[0].leaves == "h_next"
    follows_the_equations(model)


def test_weights_of_other_files_are_packed_in(tmp_path: Path) -> None:
    file = write_onnx(tmp_path / "step.onnx", external=True)
    assert (tmp_path / "step.onnx.data").exists()
    model, notes = imported(file)
    assert any("packed" in note for note in notes)
    (tmp_path / "step.onnx.data").unlink()
    assert check(tmp_path / "out" / "m").ok
    follows_the_equations(model)


def test_the_file_is_in_the_package_unchanged_and_in_the_fingerprint(tmp_path: Path) -> None:
    first = write_onnx(tmp_path / "step.onnx")
    model, _ = imported(first)
    stored = tmp_path / "out" / "m" / "step.onnx"
    assert stored.read_bytes() == first.read_bytes()
    changed = onnx.load(first)
    changed.doc_string = "the same numbers in another file"
    onnx.save(changed, first)
    other, _ = imported(first)
    assert other.fingerprint != model.fingerprint


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    imported(write_onnx(tmp_path / "step.onnx"))
    stored = tmp_path / "out" / "m" / "step.onnx"
    data = bytearray(stored.read_bytes())
    data[-1] ^= 1
    stored.write_bytes(data)
    with pytest.raises(PackageError, match=r"step\.onnx has the hash .*copy the package again"):
        load(tmp_path / "out" / "m")
    stored.unlink()
    assert "step.onnx is missing" in check(tmp_path / "out" / "m").error


def ambiguous(path: Path) -> Path:
    """Two states of one shape, whose names say nothing."""
    return write_onnx(
        path,
        names=("x", "p", "y", "q"),
        nodes=[helper.make_node("Add", ["r", "q"], ["s"])],
        inputs=[helper.make_tensor_value_info("r", FLOAT, ["batch", HIDDEN])],
        outputs=[helper.make_tensor_value_info("s", FLOAT, ["batch", HIDDEN])],
    )


def refusal(file: Path, **options: Any) -> str:
    with pytest.raises(PackageError) as refused:
        imported(file, **options)
    assert not (file.parent / "out").exists()
    return str(refused.value)


def test_states_that_are_not_clear_are_refused_with_the_candidates(tmp_path: Path) -> None:
    text = refusal(ambiguous(tmp_path / "step.onnx"))
    for part in (
        "p float32[B, 4]",
        "r float32[B, 4]",
        "q float32[B, 4]",
        "s float32[B, 4]",
        "--state IN:OUT",
    ):
        assert part in text
    model, _ = imported(tmp_path / "step.onnx", state=["p:q", "r:s"])
    assert [(s.enters, s.leaves) for s in model.manifest.parts[0].carried] == [
        ("p", "q"),
        ("r", "s"),
    ]


def test_a_state_without_an_output_is_refused(tmp_path: Path) -> None:
    more = helper.make_tensor_value_info("k", FLOAT, ["batch", 7])
    text = refusal(write_onnx(tmp_path / "step.onnx", inputs=[more]))
    assert "no output of their type and shape" in text
    assert "k float32[B, 7]" in text


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"state": ["h:nothing"]}, ("does not pair", "Outputs: y float32[B, 2] | h_out", "; write IN:OUT")),
        ({"state": ["h:y"]}, ("another shape or type", "--state h:OUT")),
        ({"state": ["h:h_out", "h:y"]}, ("say each once",)),
        ({"input": "z"}, ("no 'z', which --input names", "x float32[B, 3]")),
        ({"output": "z"}, ("no 'z', which --output names",)),
        ({"constant": ["gain"]}, ("write NAME=NUMBER",)),
        ({"constant": ["z=1"]}, ("no 'z', which --constant names",)),
        ({"constant": ["x=1"]}, ("open dimension", "--shape x=DIMS")),
        ({"shape": ["x"]}, ("write NAME=DIMS",)),
        ({"shape": ["z=B,3"]}, ("no 'z', which --shape names",)),
        ({"shape": ["x=B,3:float8"]}, ("no type 'float8'",)),
        ({"shape": ["x=B,B"]}, ("two batch axes",)),
        ({"context": 3}, ("context must be smaller",)),
    ],
)  # fmt: skip
def test_options_that_do_not_fit_are_refused(
    tmp_path: Path, options: dict[str, Any], parts: tuple[str, ...]
) -> None:
    text = refusal(write_onnx(tmp_path / "step.onnx"), **options)
    for part in parts:
        assert part in text, text


@pytest.mark.parametrize(
    ("number", "dtype"), [("0.5", "int64"), ("many", "float32"), ("2", "bool"), ("nan", "int32")]
)
def test_constants_of_another_type_are_refused(tmp_path: Path, number: str, dtype: str) -> None:
    kind = getattr(TensorProto, {"float32": "FLOAT"}.get(dtype, dtype.upper()))
    more = helper.make_tensor_value_info("k", kind, [])
    text = refusal(write_onnx(tmp_path / "step.onnx", inputs=[more]), constant=[f"k={number}"])
    assert f"--constant k={number} is no number for the input k {dtype}[]" in text


def test_open_dimensions_that_are_not_the_batch_are_refused(tmp_path: Path) -> None:
    file = write_onnx(tmp_path / "step.onnx")
    model = onnx.load(file)
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "width"
    onnx.save(model, file)
    text = refusal(file)
    assert "several dimensions of x float32[batch, width] open" in text
    assert "--shape x=DIMS" in text
    follows_the_equations(imported(file, shape=["x=B,3"])[0])
    assert "fails in a run" in refusal_of_rows(file)


def refusal_of_rows(file: Path) -> str:
    """The shape that was said is wrong."""
    with pytest.raises(PackageError) as refused:
        imported(file, shape=["x=B,5"])
    return str(refused.value)


def test_torchscript_needs_its_shapes_and_numbers(tmp_path: Path) -> None:
    text = refusal(write_script(tmp_path / "step.ts", Step()), shape=["x=B,3"])
    assert "does not say the shape of 'h'" in text
    scaled = write_script(tmp_path / "scaled.ts", ScaledStep())
    text = refusal(scaled, shape=["x=B,3", "state.0=B,4", "state.1=B,1"])
    assert "--constant gain=NUMBER" in text


def test_files_that_are_too_large_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("carousel_models.importing.program_files.MAX_PROGRAM_BYTES", 100)
    assert "more than the limit of 100" in refusal(write_onnx(tmp_path / "step.onnx"))


def test_a_missing_runtime_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_onnx(tmp_path / "step.onnx")
    imported(file)
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(PackageError, match=r"pip install 'carousel-serving\[onnx\]'"):
        load(tmp_path / "out" / "m")


def test_rows_and_states_of_one_shape_each_need_the_row_said(tmp_path: Path) -> None:
    """The row and its output have one shape, and so have the states: each pair could be the state."""
    file = tmp_path / "step.onnx"
    ports = {name: helper.make_tensor_value_info(name, FLOAT, [1, size]) for name, size in
             (("input_2", 3), ("input_3", 5), ("activation", 3), ("stack", 5))}  # fmt: skip
    calls = [
        helper.make_node("Tanh", ["input_2"], ["activation"]),
        helper.make_node("Tanh", ["input_3"], ["stack"]),
    ]
    graph = helper.make_graph(
        calls, "g", [ports["input_2"], ports["input_3"]], [ports["activation"], ports["stack"]]
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), file
    )
    assert "not clear" in refusal(file)
    model, _ = imported(file, input="input_2")
    part = model.manifest.parts[0]
    assert (part.output.name, part.carried[0].leaves) == ("activation", "stack")


def test_a_graph_that_is_nan_in_a_batch_only_is_not_batched(tmp_path: Path) -> None:
    """Division by zero where there are two sessions: no numbers to compare are no equal numbers."""

    class Dividing(Step):
        def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
            h = torch.tanh(x @ self.w + h[0] @ self.u)
            zero = 1.0 if x.shape[0] == 1 else 0.0
            return h @ self.v * zero / zero, h[None]

    file = write_script(tmp_path / "step.ts", Dividing())
    model, notes = imported(file, shape=SHAPES)
    assert model.manifest.parts[0].batch == "one"
    assert any("other numbers" in note for note in notes)
    follows_the_equations(model)


def test_a_wrong_shape_is_said_in_the_words_of_the_runtime(tmp_path: Path) -> None:
    file = write_onnx(tmp_path / "step.onnx")
    with pytest.raises(
        PackageError, match=r"Got invalid dimensions for input: x .* Expected: \d+ *; say"
    ):
        import_file(file, dir=tmp_path / "out", shape=["x=B,99"])
