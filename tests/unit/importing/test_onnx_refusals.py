"""What no chain has is named, and a step graph is still read as a program."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from carousel_models import PackageError, import_file, load, program

from .onnx_files import BATCH, HIDDEN, IN, STEPS, node, rows, squeezed, weights, write
from .test_onnx_chains import close, flat, head, imported, sample, served, turned


def refusal(file: Path, **options: Any) -> str:
    """The message with which a file is refused. Nothing is written then."""
    with pytest.raises(PackageError) as caught:
        import_file(file, name="m", dir=file.parent, **options)
    assert not (file.parent / "m").exists()
    return str(caught.value)


def layer(op: str, inputs: tuple[str, ...] = ("x", "W", "R", "B"), **options: Any) -> Any:
    return helper.make_node(op, inputs, ["y4"], name="layer", hidden_size=HIDDEN, **options)


@pytest.mark.parametrize(
    ("op", "options", "reason"),
    [
        ("LSTM", {"clip": 2.5}, "it has clip=2.5, and no cell clips its gates"),
        ("LSTM", {"input_forget": 1}, "it has input_forget=1, which couples gates"),
        ("LSTM", {"activations": ["HardSigmoid", "Tanh", "Tanh"]}, "activations hardsigmoid, tanh, tanh"),
        ("GRU", {"activations": ["Sigmoid", "Relu"]}, "the cell has sigmoid, tanh"),
        ("RNN", {"activations": ["Affine"]}, "the cell has tanh, or relu"),
        ("GRU", {"direction": "sideways"}, "its direction is 'sideways'"),
    ],
)  # fmt: skip
def test_options_that_cells_do_not_have_are_named(
    op: str, options: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    squeeze, axis = squeezed()
    text = refusal(write(tmp_path / "m.onnx", [layer(op, **options), squeeze], weights(op) | axis))
    assert f"{op} (layer) is not read: {reason}" in text or reason in text
    assert text.startswith("m.onnx is no chain of layers: ")
    assert "It is no step graph either" in text


def test_directions_with_different_activations_are_named(tmp_path: Path) -> None:
    nodes, shape = flat()
    options = {"direction": "bidirectional", "activations": ["Tanh", "Relu"]}
    file = write(tmp_path / "m.onnx", [layer("RNN", **options), *nodes], weights("RNN", 2) | shape)
    assert "it has activations tanh, relu" in refusal(file)


def test_weights_that_are_inputs_are_named(tmp_path: Path) -> None:
    w = weights("LSTM")
    squeeze, axis = squeezed()
    shape = {"W": w.pop("W").shape}
    text = refusal(write(tmp_path / "m.onnx", [layer("LSTM"), squeeze], w | axis, inputs=shape))
    assert "its W is an input or is computed, and a package stores weights" in text


@pytest.mark.parametrize(
    ("name", "array"),
    [("W", np.zeros((1, 4 * HIDDEN + 1, IN), np.float32)), ("B", np.zeros((2, 8), np.float32)),
     ("R", np.zeros((4 * HIDDEN, HIDDEN), np.float32)), ("W", np.zeros((1, 4 * HIDDEN, 2), np.float32))],
)  # fmt: skip
def test_weights_of_other_sizes_are_named(name: str, array: Any, tmp_path: Path) -> None:
    squeeze, axis = squeezed()
    arrays = weights("LSTM") | axis | {name: array}
    text = refusal(write(tmp_path / "m.onnx", [layer("LSTM"), squeeze], arrays))
    assert "LSTM (layer) is not read: its " in text


def test_initial_states_that_differ_are_named(tmp_path: Path) -> None:
    start = np.zeros((1, BATCH, HIDDEN), np.float32)
    start[0, 1] = 1
    node_ = layer("GRU", ("x", "W", "R", "B", "", "h"))
    squeeze, axis = squeezed()
    shape = {"x": (STEPS, BATCH, IN)}
    arrays = weights("GRU") | axis | {"h": start}
    text = refusal(write(tmp_path / "m.onnx", [node_, squeeze], arrays, inputs=shape))
    assert "its initial_h differs between the sequences or directions" in text


def test_an_initial_state_of_the_input_is_named(tmp_path: Path) -> None:
    pick = helper.make_node("Slice", ["x", "zero", "one"], ["h"])
    node_ = layer("GRU", ("x", "W", "R", "B", "", "h"))
    squeeze, axis = squeezed()
    arrays = weights("GRU") | axis | {"zero": np.array([0]), "one": np.array([1])}
    text = refusal(write(tmp_path / "m.onnx", [pick, node_, squeeze], arrays))
    assert "its initial_h is made of its own input" in text


def test_a_reverse_layer_begins_with_zeros(tmp_path: Path) -> None:
    start = np.ones((1, 1, HIDDEN), np.float32)
    node_ = layer("GRU", ("x", "W", "R", "B", "", "h"), direction="reverse")
    squeeze, axis = squeezed()
    text = refusal(
        write(tmp_path / "m.onnx", [node_, squeeze], weights("GRU") | axis | {"h": start})
    )
    assert "a model that runs backwards in time begins with zeros" in text


def test_constant_lengths_that_cut_sequences_are_named(tmp_path: Path) -> None:
    node_ = layer("GRU", ("x", "W", "R", "B", "cut"))
    squeeze, axis = squeezed()
    shape = {"x": (STEPS, BATCH, IN)}
    arrays = weights("GRU") | axis | {"cut": np.full(BATCH, STEPS - 1, np.int32)}
    text = refusal(write(tmp_path / "m.onnx", [node_, squeeze], arrays, inputs=shape))
    assert "its sequence_lens are constants that cut sequences" in text


def simple(op: str, inputs: list[str], **attributes: Any) -> list[Any]:
    return [helper.make_node(op, inputs, ["y"], name="end", **attributes)]


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        (simple("Sin", ["h"]), "Sin (end) is not read: a chain has no such operation"),
        (simple("Softmax", ["h"], axis=0), "works along another axis than that of the rows"),
        (simple("Add", ["h", "table"]), "an array [6, 1, 4], which is not one number for each"),
        (simple("Mul", ["h", "h"]), "it squares rows"),
        (simple("Pow", ["h", "three"]), "it is a power other than a square"),
        (simple("Clip", ["h", "", "three"]), "it has one bound, and a package has two"),
        (simple("HardSigmoid", ["h"]), "it has alpha=0.2, and a package has torch's 1/6"),
        (simple("Erf", ["h"]), "Erf is not read: it is no part of a gelu"),
        (simple("Log", ["h"]), "it is the logarithm of rows that are no probabilities"),
        (simple("MatMul", ["h", "x"]), "it is no product of rows with one constant matrix"),
        (simple("Slice", ["h", "one", "two", "two"]), "it takes a part of the rows"),
        (simple("Slice", ["h", "one", "three_i"]), "or some of the steps"),
        (simple("Gather", ["h", "two_i"], axis=0), "a step of a sequence that is neither the last"),
        (simple("Concat", ["h", "h"], axis=2), "it joins rows of several places"),
        (simple("Reshape", ["h", "apart"]), "which takes apart what is one axis"),
        (simple("ReduceMean", ["h"], axes=[0]), "it is a mean over other numbers than those of a row"),
        (simple("Cast", ["h"], to=onnx.TensorProto.INT32), "it makes int32 of rows"),
        ([turned("h", "y")], "the output has the steps in the opposite order"),
    ],
)  # fmt: skip
def test_operations_that_chains_do_not_have_are_named(
    nodes: list[Any], reason: str, tmp_path: Path
) -> None:
    arrays = weights("GRU") | {
        "table": np.ones((STEPS, 1, HIDDEN), np.float32), "three": np.array(3, np.float32),
        "one": np.array([1]), "two": np.array([2]), "three_i": np.array([3]), "two_i": np.array(2),
        "apart": np.array([0, 0, 2, 2]), "minus": np.array([-1]), "least": np.array([-(1 << 63)]),
        "zero": np.array([0]),
    }  # fmt: skip
    squeeze, axis = squeezed(to="h")
    # A row behind a mean or a piece shows the reason, as an output of it alone has none.
    more = [helper.make_node("Relu", ["y"], ["z"])] if reason.startswith("a step") else []
    end = "z" if more else "y"
    file = write(
        tmp_path / "m.onnx", [node("GRU"), squeeze, *nodes, *more], arrays | axis, outputs=(end,)
    )
    assert reason in refusal(file)


def test_rows_of_two_branches_are_named(tmp_path: Path) -> None:
    squeeze, axis = squeezed(to="h")
    nodes = [
        helper.make_node("Tanh", ["h"], ["one"]),
        helper.make_node("Relu", ["h"], ["two"]),
        helper.make_node("Add", ["one", "two"], ["y"], name="sum"),
    ]
    text = refusal(
        write(tmp_path / "m.onnx", [node("GRU"), squeeze, *nodes], weights("GRU") | axis)
    )
    assert "Add (sum) is not read: it adds rows of two branches" in text


def test_a_row_of_no_step_is_named(tmp_path: Path) -> None:
    """The last states of both directions, joined for a classifier."""
    arrays = weights("LSTM", 2)
    kernel = np.zeros((2 * HIDDEN, 2), np.float32)
    nodes = [
        helper.make_node(
            "LSTM", ["x", "W", "R", "B"], ["", "yh"], hidden_size=HIDDEN, direction="bidirectional"
        ),
        helper.make_node("Transpose", ["yh"], ["moved"], perm=[1, 0, 2]),
        helper.make_node("Reshape", ["moved", "shape"], ["joined"]),
        helper.make_node("MatMul", ["joined", "K"], ["y"]),
    ]
    more = {"shape": np.array([0, -1]), "K": kernel}
    text = refusal(write(tmp_path / "m.onnx", nodes, arrays | more))
    assert "no step has both" in text


def test_a_decoder_of_a_single_row_is_named(tmp_path: Path) -> None:
    first, second = weights("GRU"), weights("GRU", inputs=HIDDEN, seed=1)
    arrays = first | {f"2{name}": array for name, array in second.items()}
    nodes = [
        helper.make_node("GRU", ["x", "W", "R", "B"], ["", "h"], hidden_size=HIDDEN),
        helper.make_node("GRU", ["h", "2W", "2R", "2B"], ["y"], hidden_size=HIDDEN, name="decoder"),
    ]
    text = refusal(write(tmp_path / "m.onnx", nodes, arrays))
    assert "GRU (decoder) is not read: it reads a single row of a sequence" in text


def test_several_outputs_are_listed_and_one_is_chosen(tmp_path: Path) -> None:
    squeeze, axis = squeezed(to="h")
    nodes = [node("GRU"), squeeze, *head()[0], helper.make_node("Relu", ["h"], ["other"])]
    w = weights("GRU")
    file = write(tmp_path / "m.onnx", nodes, w | axis | head()[1], outputs=("y", "other"))
    assert "the graph has the outputs y, other, and a package has one; choose it with --output" in (
        refusal(file)
    )
    assert "'z'" in refusal(file, output="z")
    model, _ = imported(file, output="other")
    close(served(model, sample()), np.maximum(rows("GRU", sample(), w), 0))


def test_a_selection_beside_the_rows_is_left_out(tmp_path: Path) -> None:
    squeeze, axis = squeezed(to="h")
    nodes = [
        node("GRU"),
        squeeze,
        helper.make_node("Softmax", ["h"], ["y"], axis=-1),
        helper.make_node("ArgMax", ["y"], ["label"], axis=-1, keepdims=0),
    ]
    file = write(tmp_path / "m.onnx", nodes, weights("GRU") | axis, outputs=("y", "label"))
    model, notes = imported(file)
    assert model.manifest.output.transform == "softmax"
    assert notes[0].startswith("a selection beside the rows is left out")


@pytest.mark.parametrize(
    ("op", "attributes", "reason"),
    [
        ("TopK", {"largest": 0}, "it takes the smallest, or no order"),
        ("ArgMax", {"axis": 0}, "it selects along another axis than that of the rows"),
        ("ArgMax", {"axis": -1, "select_last_index": 1}, "it takes the last of equal places"),
    ],
)
def test_other_selections_are_named(
    op: str, attributes: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    squeeze, axis = squeezed(to="h")
    inputs, outputs = (["h", "k"], ["v", "y"]) if op == "TopK" else (["h"], ["y"])
    end = helper.make_node(op, inputs, outputs, **attributes)
    arrays = weights("GRU") | axis | {"k": np.array([2])}
    assert reason in refusal(write(tmp_path / "m.onnx", [node("GRU"), squeeze, end], arrays))


def step_graph(file: Path) -> Path:
    """One step of a GRU: x [B, IN] and h [1, B, HIDDEN]."""
    nodes = [
        helper.make_node("Unsqueeze", ["x", "zero"], ["steps"]),
        helper.make_node(
            "GRU", ["steps", "W", "R", "B", "", "h"], ["y4", "hn"], hidden_size=HIDDEN, name="cell"
        ),
        helper.make_node("Squeeze", ["y4", "both"], ["y"]),
    ]
    arrays = weights("GRU") | {"zero": np.array([0]), "both": np.array([0, 1])}
    inputs = {"x": ("batch", IN), "h": (1, "batch", HIDDEN)}
    write(file, nodes, arrays, inputs=inputs, outputs=("y", "hn"))
    model = onnx.load(file)
    for port, shape in zip(model.graph.output, (("batch", HIDDEN), inputs["h"]), strict=True):
        port.CopyFrom(helper.make_tensor_value_info(port.name, onnx.TensorProto.FLOAT, shape))
    onnx.save(model, file)
    return file


def test_a_step_graph_with_a_layer_is_a_program(tmp_path: Path) -> None:
    model, notes = imported(step_graph(tmp_path / "m.onnx"))
    assert [part.kind for part in model.manifest.parts] == ["program"]
    assert notes[-2].startswith(
        "it is a program, as it is no chain of layers: GRU (cell) is not read: it belongs to a step graph"
    )
    close(served(model, sample()), rows("GRU", sample(), weights("GRU")))


def test_options_of_programs_are_for_programs(tmp_path: Path) -> None:
    model, notes = imported(step_graph(tmp_path / "m.onnx"), state=["h:hn"])
    assert model.manifest.parts
    assert not any("no chain" in note for note in notes)


def test_without_onnx_a_file_is_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = step_graph(tmp_path / "m.onnx")
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "carousel_models.importing.onnx_chain.find_spec", lambda n: None if n == "onnx" else find(n)
    )
    notes: list[str] = []
    import_file(file, name="m", dir=tmp_path, note=notes.append)
    assert notes[0].startswith(
        "it was read as a step graph; reading layers out of ONNX files needs"
    )
    assert load(tmp_path / "m").manifest.parts


@pytest.mark.parametrize("data", [b"", b"no model", b"\x00" * 40])
def test_damaged_files_are_named(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(data)
    assert "m.onnx" in refusal(tmp_path / "m.onnx")


def test_a_part_of_a_stack_is_a_program_even_if_layers_could_be_read(tmp_path: Path) -> None:
    """The graph has an axis of one step, along which the importer would read a layer."""
    layer_ = layer("GRU", ("x", "W", "R", "B", "", "h"))
    layer_.output.append("hn")
    nodes = [layer_, helper.make_node("Squeeze", ["y4", "axis"], ["y"])]
    inputs = {"x": (1, 1, IN), "h": (1, 1, HIDDEN)}
    arrays = weights("GRU") | {"axis": np.array([1])}
    file = write(tmp_path / "m.onnx", nodes, arrays, inputs=inputs, outputs=("y", "hn"))
    model = onnx.load(file)
    for port, shape in zip(model.graph.output, ((1, 1, HIDDEN),) * 2, strict=True):
        port.CopyFrom(helper.make_tensor_value_info(port.name, onnx.TensorProto.FLOAT, shape))
    onnx.save(model, file)
    assert program("step", file).part.kind == "program"
    layers, _ = imported(file)
    assert layers.manifest.stack
    close(served(layers, sample()), rows("GRU", sample(), weights("GRU")))


@pytest.mark.parametrize(
    "broken",
    [
        helper.make_node("Transpose", ["h"], ["y"], name="end", perm=[0, 7, 1]),
        helper.make_node("Squeeze", ["h", "far"], ["y"], name="end"),
        helper.make_node("MatMul", ["h"], ["y"], name="end"),
        helper.make_node("Gemm", [], ["y"], name="end"),
        helper.make_node("Add", ["h", "h", "h"], ["y"], name="end"),
        helper.make_node("Gelu", ["h"], ["y"], name="end", approximate="most"),
        helper.make_node("If", ["yes"], ["y"], name="end"),
        helper.make_node("LSTM", ["h", "far"], ["y"], name="end"),
        helper.make_node("Relu", ["nothing"], ["y"], name="end"),
    ],
    ids=lambda one: one.op_type,
)
def test_damaged_operations_are_named(broken: Any, tmp_path: Path) -> None:
    squeeze, axis = squeezed(to="h")
    arrays = weights("GRU") | axis | {"far": np.array([9]), "yes": np.array(True)}
    text = refusal(write(tmp_path / "m.onnx", [node("GRU"), squeeze, broken], arrays))
    assert f"{broken.op_type} (end) is not read: " in text
