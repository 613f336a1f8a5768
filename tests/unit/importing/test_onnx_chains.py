"""Chains in ONNX files become built-in layers, whose rows are those of ONNX's equations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from carousel_models import RecurrentModel, import_file, load
from carousel_models.probe import run_steps

from .onnx_files import (
    BATCH,
    HIDDEN,
    IN,
    STEPS,
    Array,
    Arrays,
    node,
    rows,
    squeezed,
    weights,
    write,
)

SAME = "the package gives the original's rows"


def imported(file: Path, **options: Any) -> tuple[RecurrentModel, list[str]]:
    """The model of a file, compared with onnxruntime, and the notes."""
    notes: list[str] = []
    import_file(
        file, name="m", dir=file.parent, note=notes.append, check=True, overwrite=True, **options
    )
    return load(file.parent / "m"), notes


def sample(width: int = IN) -> Array:
    return np.random.default_rng(9).normal(size=(STEPS, width)).astype(np.float32)


def served(model: RecurrentModel, x: Array) -> Array:
    """Rows [T, W] of one sequence: by steps if the model has sessions, else by Infer."""
    given = torch.from_numpy(x)
    if model.causal:
        return run_steps(model, given).numpy()
    with torch.inference_mode():
        return model.sequence(given[None], torch.tensor([len(x)]))[0][0].numpy()


def close(found: Array, expected: Array) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


def flat(source: str = "y4", to: str = "y") -> tuple[list[Any], Arrays]:
    """[T, D, B, H] → [T, B, D × H], as torch's exporters write it."""
    nodes = [
        helper.make_node("Transpose", [source], ["moved"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["moved", "flat"], [to]),
    ]
    return nodes, {"flat": np.array([0, 0, -1])}


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(
    ("op", "options", "cell"),
    [
        ("LSTM", {}, "lstm"),
        ("GRU", {"linear_before_reset": 1}, "gru"),
        ("GRU", {}, "gru_reset_before"),
        ("RNN", {}, "rnn_tanh"),
        ("RNN", {"activations": ["Relu"]}, "rnn_relu"),
    ],
)
def test_each_operation_follows_its_equations(
    op: str, options: dict[str, Any], cell: str, direction: str, tmp_path: Path
) -> None:
    ways = 2 if direction == "bidirectional" else 1
    names = {"activations": options["activations"] * ways} if "activations" in options else options
    w = weights(op, ways)
    nodes, shape = flat()
    layer = node(op, direction=direction, **names)
    file = write(tmp_path / "m.onnx", [layer, *nodes], w | shape)
    model, notes = imported(file)
    (spec,) = model.manifest.stack
    assert (spec.cell, spec.bidirectional, spec.backward) == (
        cell,
        ways == 2,
        direction == "reverse",
    )
    assert notes == [SAME]
    expected = rows(op, sample(), w, direction, relu="activations" in options, **options)
    close(served(model, sample()), expected)


def test_peepholes_are_an_option_of_the_lstm(tmp_path: Path) -> None:
    w = weights("LSTM") | {"P": np.random.default_rng(3).normal(size=(1, 3 * HIDDEN))}
    w["P"] = w["P"].astype(np.float32)
    layer = helper.make_node(
        "LSTM", ["x", "W", "R", "B", "", "", "", "P"], ["y4"], hidden_size=HIDDEN
    )
    squeeze, axis = squeezed()
    model, _ = imported(write(tmp_path / "m.onnx", [layer, squeeze], w | axis))
    assert model.manifest.stack[0].options == {"peepholes": True}
    close(served(model, sample()), rows("LSTM", sample(), w))


def test_a_layer_without_bias_has_none(tmp_path: Path) -> None:
    w = weights("GRU")
    del w["B"]
    layer = helper.make_node("GRU", ["x", "W", "R"], ["y4"], hidden_size=HIDDEN)
    squeeze, axis = squeezed()
    model, _ = imported(write(tmp_path / "m.onnx", [layer, squeeze], w | axis))
    assert not model.manifest.stack[0].bias
    zeros = np.zeros((1, 6 * HIDDEN))
    close(served(model, sample()), rows("GRU", sample(), w | {"B": zeros}))


def test_negated_gates_have_no_negative_zeros(tmp_path: Path) -> None:
    w = {name: np.zeros_like(array) for name, array in weights("GRU").items()}
    squeeze, axis = squeezed()
    imported(write(tmp_path / "m.onnx", [node("GRU"), squeeze], w | axis))
    from safetensors.numpy import load_file

    arrays = load_file(tmp_path / "m" / "model.safetensors")
    assert not any(np.signbit(array).any() for array in arrays.values())


def test_layout_1_has_the_batch_first(tmp_path: Path) -> None:
    """onnxruntime does not run it, so the note says that it was not compared."""
    w = weights("LSTM")
    squeeze, axis = squeezed(2)
    model, notes = imported(write(tmp_path / "m.onnx", [node("LSTM", layout=1), squeeze], w | axis))
    assert notes[-1].startswith("not compared with the original: onnxruntime does not run it")
    close(served(model, sample()), rows("LSTM", sample(), w))


def halves(axis: int) -> tuple[list[Any], Arrays]:
    """A forward and a reverse node, joined along an axis of [T, D, B, H] or [T, B, H]."""
    both = weights("LSTM", 2)
    arrays = {f"{way}{n}": a[p : p + 1] for n, a in both.items() for p, way in enumerate("fb")}
    nodes = [
        node("LSTM", y="yf", prefix="f"),
        node("LSTM", y="yb", prefix="b", direction="reverse"),
    ]
    if axis == 1:
        joined, shape = flat("y4")
        nodes += [helper.make_node("Concat", ["yf", "yb"], ["y4"], axis=1), *joined]
    else:
        nodes += [squeezed(source="yf", to="one")[0], squeezed(source="yb", to="two")[0]]
        nodes += [helper.make_node("Concat", ["one", "two"], ["y"], axis=axis)]
        shape = squeezed()[1]
    return nodes, arrays | shape


@pytest.mark.parametrize("axis", [1, 2, -1])
def test_two_directions_may_be_two_nodes(axis: int, tmp_path: Path) -> None:
    nodes, arrays = halves(axis)
    model, _ = imported(write(tmp_path / "m.onnx", nodes, arrays))
    assert [layer.bidirectional for layer in model.manifest.stack] == [True]
    close(served(model, sample()), rows("LSTM", sample(), weights("LSTM", 2), "bidirectional"))


def turned(source: str, to: str) -> Any:
    return helper.make_node("Slice", [source, "minus", "least", "zero", "minus"], [to])


TURN = {"minus": np.array([-1]), "least": np.array([-(1 << 63)]), "zero": np.array([0])}


def test_a_sequence_may_be_turned_round(tmp_path: Path) -> None:
    w = weights("GRU")
    squeeze, axis = squeezed(to="forth")
    nodes = [turned("x", "back"), node("GRU", "back"), squeeze, turned("forth", "y")]
    model, _ = imported(write(tmp_path / "m.onnx", nodes, w | axis | TURN))
    assert model.manifest.stack[0].backward
    close(served(model, sample()), rows("GRU", sample(), w, "reverse"))


def head(source: str = "h", to: str = "y") -> tuple[list[Any], Arrays]:
    array = np.random.default_rng(5).normal(size=(HIDDEN, 2)).astype(np.float32)
    bias = np.array([0.5, -1], np.float32)
    nodes = [
        helper.make_node("MatMul", [source, "K"], ["product"]),
        helper.make_node("Add", ["bias", "product"], [to]),
    ]
    return nodes, {"K": array, "bias": bias}


def last_state(op: str = "LSTM", **options: Any) -> tuple[list[Any], Arrays]:
    """A layer whose Y_h goes on, [1, B, H]."""
    outputs = ["", "yh"] + (["yc"] if op == "LSTM" else [])
    layer = helper.make_node(op, ["x", "W", "R", "B"], outputs, hidden_size=HIDDEN, **options)
    return [layer], weights(op)


def test_the_last_state_is_the_row_of_the_last_step(tmp_path: Path) -> None:
    nodes, arrays = last_state()
    end, more = head()
    squeeze, axis = squeezed(0, "yh", "h")
    model, notes = imported(
        write(tmp_path / "m.onnx", [*nodes, squeeze, *end], arrays | more | axis)
    )
    assert notes[0].startswith("m.onnx returned its last step alone: a session gives a row")
    assert notes[-1] == SAME  # each step was compared, as the last one of a shorter sequence
    expected = rows("LSTM", sample(), arrays) @ more["K"] + more["bias"]
    close(served(model, sample()), expected)


def test_the_first_row_of_a_reverse_layer_is_its_last_state(tmp_path: Path) -> None:
    nodes, arrays = last_state("GRU", direction="reverse")
    squeeze, axis = squeezed(0, "yh", "y")
    model, notes = imported(write(tmp_path / "m.onnx", [*nodes, squeeze], arrays | axis))
    assert notes[0].startswith("m.onnx returned its first step alone")
    assert notes[-1] == SAME
    close(served(model, sample()), rows("GRU", sample(), arrays, "reverse"))


@pytest.mark.parametrize("place", [1, -1])
def test_the_last_state_of_the_last_layer_may_be_chosen(place: int, tmp_path: Path) -> None:
    first, second = weights("GRU"), weights("GRU", inputs=HIDDEN, seed=1)
    arrays = first | {f"2{name}": array for name, array in second.items()}
    squeeze, axis = squeezed(to="x2")
    nodes = [
        helper.make_node("GRU", ["x", "W", "R", "B"], ["y4", "h1"], hidden_size=HIDDEN),
        squeeze,
        helper.make_node("GRU", ["x2", "2W", "2R", "2B"], ["", "h2"], hidden_size=HIDDEN),
        helper.make_node("Concat", ["h1", "h2"], ["hn"], axis=0),
        helper.make_node("Gather", ["hn", "place"], ["h"], axis=0),
        *head()[0],
    ]
    more = axis | head()[1] | {"place": np.array(place)}
    model, _ = imported(write(tmp_path / "m.onnx", nodes, arrays | more, outputs=("y", "hn")))
    hidden = rows("GRU", rows("GRU", sample(), first), second)
    close(served(model, sample()), hidden @ head()[1]["K"] + head()[1]["bias"])


def test_constant_initial_states_are_stored(tmp_path: Path) -> None:
    w, h = weights("LSTM"), np.linspace(-1, 1, HIDDEN).astype(np.float32)
    c = np.full(HIDDEN, 0.5, np.float32)
    starts = {"h": np.tile(h, (1, BATCH, 1)), "c": np.tile(c, (1, BATCH, 1))}
    layer = helper.make_node("LSTM", ["x", "W", "R", "B", "", "h", "c"], ["y4"], hidden_size=HIDDEN)
    squeeze, axis = squeezed()
    shape = {"x": (STEPS, BATCH, IN)}
    file = write(tmp_path / "m.onnx", [layer, squeeze], w | starts | axis, inputs=shape)
    model, notes = imported(file)
    assert (model.manifest.initial[0].stored, notes[-1]) == (("0.h", "0.c"), SAME)
    close(served(model, sample()), rows("LSTM", sample(), w, h=h, c=c))


def test_inputs_of_states_and_lengths_are_the_sessions(tmp_path: Path) -> None:
    w = weights("LSTM")
    layer = helper.make_node(
        "LSTM", ["x", "W", "R", "B", "lengths", "h0", "c0"], ["y4", "hn", "cn"], hidden_size=HIDDEN
    )
    squeeze, axis = squeezed()
    state = (1, "batch", HIDDEN)
    inputs = {"lengths": ("batch",), "h0": state, "c0": state}
    file = write(
        tmp_path / "m.onnx", [layer, squeeze], w | axis, inputs=inputs, outputs=("y", "hn", "cn")
    )
    model, notes = imported(file)
    assert notes == [
        "lengths is left out: each sequence has its own length here",
        "h0 is the state of a session, which begins with zeros",
        "c0 is the state of a session, which begins with zeros",
        SAME,
    ]
    assert [state.name for state in model.manifest.states] == ["0.h", "0.c"]
    close(served(model, sample()), rows("LSTM", sample(), w))


@pytest.mark.parametrize("op", ["Gather", "OneHot"])
def test_tokens_are_looked_up(op: str, tmp_path: Path) -> None:
    table = np.random.default_rng(2).normal(size=(7, IN)).astype(np.float32)
    if op == "OneHot":
        table = np.eye(IN, dtype=np.float32)
        entering = helper.make_node("OneHot", ["x", "depth", "levels"], ["e"], axis=-1)
    else:
        entering = helper.make_node("Gather", ["E", "x"], ["e"], axis=0)
    more = {"E": table, "depth": np.array(IN), "levels": np.array([0, 1], np.float32)}
    w = weights("RNN")
    squeeze, axis = squeezed()
    nodes = [entering, node("RNN", "e"), squeeze]
    file = write(tmp_path / "m.onnx", nodes, w | axis | more, tokens=True)
    model, notes = imported(file)
    assert (model.vocabulary, notes) == (len(table), [SAME])
    tokens = np.array([0, 2, 1, 1, 2])
    close(served(model, tokens), rows("RNN", table[tokens], w))


def test_a_scale_of_the_input_is_its_normalization(tmp_path: Path) -> None:
    w = weights("GRU")
    mean, std = np.array([1, -2, 0.5], np.float32), np.array([2, 0.5, 1], np.float32)
    squeeze, axis = squeezed()
    nodes = [
        helper.make_node("Sub", ["x", "mean"], ["centered"]),
        helper.make_node("Div", ["centered", "std"], ["normal"]),
        node("GRU", "normal"),
        squeeze,
    ]
    model, _ = imported(write(tmp_path / "m.onnx", nodes, w | axis | {"mean": mean, "std": std}))
    assert model.manifest.input.normalization is not None  # type: ignore[union-attr]
    close(served(model, sample()), rows("GRU", (sample() - mean) / std, w))


def test_gemm_works_on_joined_axes(tmp_path: Path) -> None:
    """Steps and sequences as one axis, as converters write a Dense layer."""
    w = weights("LSTM")
    array = np.random.default_rng(5).normal(size=(2, HIDDEN)).astype(np.float32)
    bias = np.array([1, -1], np.float32)
    nodes = [
        node("LSTM"),
        helper.make_node("Shape", ["x"], ["sizes"]),
        helper.make_node("Slice", ["sizes", "zero", "two"], ["outer"]),
        helper.make_node("Concat", ["outer", "width"], ["back"], axis=0),
        helper.make_node("Reshape", ["y4", "joined"], ["rows"]),
        helper.make_node("Gemm", ["rows", "K", "bias"], ["out"], transB=1, alpha=0.5, beta=2.0),
        helper.make_node("Reshape", ["out", "back"], ["y"]),
    ]
    arrays = {
        "K": array, "bias": bias, "joined": np.array([-1, HIDDEN]), "width": np.array([2]),
        "zero": np.array([0]), "two": np.array([2]),
    }  # fmt: skip
    model, notes = imported(write(tmp_path / "m.onnx", nodes, w | arrays))
    assert notes == [SAME]
    close(served(model, sample()), rows("LSTM", sample(), w) @ array.T * 0.5 + 2 * bias)


@pytest.mark.parametrize(
    ("condition", "read"), [(True, "the branch of a Squeeze"), (False, "the other")]
)
def test_the_branch_of_a_constant_condition_is_read(
    condition: bool, read: str, tmp_path: Path
) -> None:
    """Torch's older exporter writes a Squeeze whose size it does not know so."""
    w = weights("GRU")
    branches = [
        helper.make_graph([node_], name, [], [onnx.ValueInfoProto(name=name)])
        for name, node_ in (
            ("a", helper.make_node("Squeeze", ["y4", "axis"], ["a"])),
            ("b", helper.make_node("Neg", ["once"], ["b"])),
        )
    ]
    squeeze, axis = squeezed(to="once")
    nodes = [
        node("GRU"),
        squeeze,
        helper.make_node("If", ["c"], ["y"], then_branch=branches[0], else_branch=branches[1]),
    ]
    model, _ = imported(write(tmp_path / "m.onnx", nodes, w | axis | {"c": np.array(condition)}))
    sign = 1 if read == "the branch of a Squeeze" else -1
    close(served(model, sample()), sign * rows("GRU", sample(), w))


def test_weights_may_lie_in_another_file(tmp_path: Path) -> None:
    w = weights("LSTM")
    squeeze, axis = squeezed()
    file = write(tmp_path / "m.onnx", [node("LSTM"), squeeze], w | axis)
    onnx.save(
        onnx.load(file), file, save_as_external_data=True, location="m.onnx.data", size_threshold=0
    )
    model, notes = imported(file)
    assert notes == [SAME]
    close(served(model, sample()), rows("LSTM", sample(), w))


def test_local_functions_are_read(tmp_path: Path) -> None:
    w = weights("GRU")
    squeeze, axis = squeezed(to="once")
    call = helper.make_node("twice", ["once"], ["y"], domain="own")
    file = write(tmp_path / "m.onnx", [node("GRU"), squeeze, call], w | axis)
    model = onnx.load(file)
    body = helper.make_node("Add", ["a", "one"], ["b"])
    one = helper.make_node("Constant", [], ["one"], value_float=1.0)
    opsets = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("own", "twice", ["a"], ["b"], [one, body], opsets))
    model.opset_import.append(helper.make_opsetid("own", 1))
    onnx.save(model, file)
    found, _ = imported(file)
    close(served(found, sample()), rows("GRU", sample(), w) + 1)


@pytest.mark.parametrize("number", [16, 64])
def test_weights_of_other_types_are_stored_as_float32(number: int, tmp_path: Path) -> None:
    kind = np.dtype(f"float{number}")
    w = {name: array.astype(kind) for name, array in weights("GRU").items()}
    cast = helper.make_node("Cast", ["x"], ["wide"], to=helper.np_dtype_to_tensor_dtype(kind))
    squeeze, axis = squeezed()
    file = write(tmp_path / "m.onnx", [cast, node("GRU", "wide"), squeeze], w | axis)
    notes: list[str] = []
    import_file(file, name="m", dir=tmp_path, note=notes.append)
    assert "weights of other types than float32 are stored as float32" in notes
    close(served(load(tmp_path / "m"), sample()), rows("GRU", sample(), w))


@pytest.mark.parametrize("place", [0, -1])
def test_one_row_of_both_directions_is_not_compared(place: int, tmp_path: Path) -> None:
    """A shorter sequence has another row at the same step, so the file shows no other row."""
    nodes, shape = flat(to="h")
    pick = helper.make_node("Gather", ["h", "place"], ["y"], axis=0)
    arrays = weights("GRU", 2) | shape | {"place": np.array(place)}
    layer = node("GRU", direction="bidirectional")
    model, notes = imported(write(tmp_path / "m.onnx", [layer, *nodes, pick], arrays))
    assert notes[-1].startswith("not compared with the original: it gives one row of a sequence")
    close(served(model, sample()), rows("GRU", sample(), weights("GRU", 2), "bidirectional"))


def test_numbers_may_be_cast_to_tokens(tmp_path: Path) -> None:
    """Converters of other libraries give a graph floats for tokens."""
    w = weights("GRU")
    table = np.random.default_rng(2).normal(size=(7, IN)).astype(np.float32)
    squeeze, axis = squeezed()
    nodes = [
        helper.make_node("Cast", ["t"], ["whole"], to=onnx.TensorProto.INT32),
        helper.make_node("Gather", ["E", "whole"], ["e"]),
        node("GRU", "e"),
        squeeze,
    ]
    file = write(tmp_path / "m.onnx", nodes, w | axis | {"E": table}, inputs={"t": ("s", "b")})
    graph = onnx.load(file)
    del graph.graph.input[0]
    onnx.save(graph, file)
    model, notes = imported(file)
    assert notes == [SAME]
    tokens = np.array([0, 2, 6, 1])
    close(served(model, tokens), rows("GRU", table[tokens], w))
