"""ONNX graphs that were exported for one row take many, where runs show that this changes no row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from unit.programs.graphs import IN, OUT, equations, write_onnx

from carousel_models import PackageError, RecurrentModel, import_file, load
from carousel_models.importing.free_batch import freed
from carousel_models.importing.program_options import said_axes
from carousel_models.probe import run_steps

AXES = {"x": 0, "h": 0}


def one_row(path: Path, *, shape: Any = (1, OUT), **options: Any) -> Path:
    """A step for one row. A Reshape of the output names the size 1 in a constant."""
    write_onnx(path, batch=1, **options)
    model = onnx.load(path)
    for node in model.graph.node:
        if node.op_type == "Reshape":
            node.input[1] = "one_row"
    model.graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), "one_row"))
    onnx.save(model, path)
    return path


def imported(file: Path, **options: Any) -> tuple[RecurrentModel, list[str]]:
    notes: list[str] = []
    import_file(
        file, name="m", dir=file.parent / "out", note=notes.append, check=True, overwrite=True,
        free_batch=True, **options,
    )  # fmt: skip
    return load(file.parent / "out" / "m"), notes


def test_a_freed_graph_takes_many_rows_in_one_call(tmp_path: Path) -> None:
    file = one_row(tmp_path / "step.onnx")
    before = file.read_bytes()
    model, notes = imported(file)
    assert file.read_bytes() == before
    assert model.manifest.parts[0].batch == "symbolic"
    assert "2 inputs and 1 Reshape constants" in notes[0]
    assert notes[-1] == "the package gives the original's rows"
    x = torch.randn(20, IN, generator=torch.Generator().manual_seed(3))
    np.testing.assert_allclose(run_steps(model, x).numpy(), equations(x.numpy()), atol=2e-6)
    rows, state = torch.randn(7, IN), model.initial_state(7)
    together = model.step(rows, state)[0]
    alone = torch.cat([model.step(row[None], model.initial_state(1))[0] for row in rows])
    np.testing.assert_allclose(together.numpy(), alone.numpy(), atol=1e-6)


def test_a_shape_in_a_constant_node_is_freed_too(tmp_path: Path) -> None:
    file = one_row(tmp_path / "step.onnx")
    model = onnx.load(file)
    (shape,) = [one for one in model.graph.initializer if one.name == "one_row"]
    model.graph.initializer.remove(shape)
    # torch's older exporter writes constants so.
    model.graph.node.insert(0, helper.make_node("Constant", [], ["one_row"], value=shape))
    onnx.save(model, file)
    freed_model, notes = imported(file)
    assert freed_model.manifest.parts[0].batch == "symbolic"
    assert "1 Reshape constants" in notes[0]


def test_the_batch_axis_of_a_state_may_be_said(tmp_path: Path) -> None:
    file = one_row(tmp_path / "step.onnx", axis=1)
    model, _ = imported(file, shape=["h=1,B,4"])
    part = model.manifest.parts[0]
    assert (part.batch, part.carried[0].axis) == ("symbolic", 1)
    with pytest.raises(PackageError, match="cannot be freed"):
        imported(file)  # the first axis of that state counts layers, and not rows


def test_a_graph_that_fails_prints_nothing_beside_its_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = one_row(tmp_path / "step.onnx", shape=(OUT,))  # of two rows it fails
    with pytest.raises(
        PackageError, match=r"cannot be freed: it fails with more than one session \(.*Reshape"
    ):
        imported(file)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("shape", [(-1, OUT), (OUT,)])
def test_reshapes_without_a_leading_one_stay(tmp_path: Path, shape: Any) -> None:
    file = one_row(tmp_path / "step.onnx", shape=shape)
    changed, notes = freed(file.read_bytes(), AXES, "step.onnx")
    assert "0 Reshape constants" in notes[0]
    constants = {i.name for i in onnx.load_from_string(changed).graph.initializer}
    assert not any("of_any_batch" in name for name in constants)


def test_a_constant_that_other_nodes_use_stays_as_it_is(tmp_path: Path) -> None:
    file = one_row(tmp_path / "step.onnx")
    model = onnx.load(file)
    model.graph.node.append(helper.make_node("Identity", ["one_row"], ["sizes"]))
    model.graph.output.append(helper.make_tensor_value_info("sizes", TensorProto.INT64, [2]))
    changed, _ = freed(model.SerializeToString(), AXES, "step.onnx")
    session = onnxruntime.InferenceSession(changed)
    feed = {"x": np.zeros((3, IN), np.float32), "h": np.zeros((3, 4), np.float32)}
    rows, sizes = session.run(["y", "sizes"], feed)
    assert rows.shape == (3, OUT)
    assert sizes.tolist() == [1, OUT]


def test_a_graph_that_mixes_rows_is_refused(tmp_path: Path) -> None:
    file = one_row(tmp_path / "step.onnx")
    model = onnx.load(file)
    (reshape,) = [node for node in model.graph.node if node.op_type == "Reshape"]
    reshape.output[0] = "plain"
    mean = helper.make_node("ReduceMean", ["plain"], ["mean"], keepdims=1, axes=[0])
    model.graph.node.extend([mean, helper.make_node("Add", ["plain", "mean"], ["y"])])
    model.opset_import[0].version = 17
    onnx.save(model, file)
    with pytest.raises(PackageError, match="cannot be freed: a session has other numbers"):
        imported(file)


def test_a_graph_without_a_batch_axis_of_one_is_refused(tmp_path: Path) -> None:
    file = write_onnx(tmp_path / "step.onnx", batch=2)
    with pytest.raises(PackageError, match="has nothing to free"):
        imported(file)


def test_other_files_have_no_such_option(tmp_path: Path) -> None:
    file = tmp_path / "step.pt2"
    file.write_bytes(b"")
    with pytest.raises(PackageError, match="no option --free-batch"):
        imported(file)


def test_the_batch_axes_of_shapes_are_found() -> None:
    assert said_axes(["h=1,B,4", "x=3", "t=b,2:int64", "wrong"]) == {"h": 1, "t": 0}
