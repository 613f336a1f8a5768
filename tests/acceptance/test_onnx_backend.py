"""The cases of LSTM, GRU and RNN in ONNX's own suite for backends, each by its name."""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from carousel_models import RecurrentModel, import_file, load
from carousel_models.probe import run_steps

Array = NDArray[Any]

CASES = (
    "test_gru_batchwise",
    "test_gru_bidirectional",
    "test_gru_defaults",
    "test_gru_reverse",
    "test_gru_seq_length",
    "test_gru_with_initial_bias",
    "test_lstm_batchwise",
    "test_lstm_bidirectional",
    "test_lstm_defaults",
    "test_lstm_reverse",
    "test_lstm_with_initial_bias",
    "test_lstm_with_peepholes",
    "test_rnn_seq_length",
    "test_simple_rnn_batchwise",
    "test_simple_rnn_bidirectional",
    "test_simple_rnn_defaults",
    "test_simple_rnn_reverse",
    "test_simple_rnn_with_initial_bias",
)
RECURRENT = ("LSTM", "GRU", "RNN")


@cache
def collected() -> dict[str, Any]:
    """All cases with a recurrent node. The collection is complete in its first call of a process alone."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = collect_testcases(None)
    return {c.name: c for c in cases if any(n.op_type in RECURRENT for n in c.model.graph.node)}


def test_the_suite_has_these_cases() -> None:
    assert sorted(collected()) == sorted(CASES)


def written(name: str, file: Path) -> tuple[Array, dict[str, Array]]:
    """Writes a case's model with its weights stored, and returns X and the expected outputs by name."""
    case = collected()[name]
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    ((inputs, outputs),) = case.data_sets
    x, *weights = (np.asarray(array) for array in inputs)
    graph = model.graph
    for port, array in zip(list(graph.input)[1:], weights, strict=True):
        graph.initializer.append(onnx.numpy_helper.from_array(array, port.name))
        graph.input.remove(port)
    onnx.save(model, file)
    named = zip(graph.output, outputs, strict=True)
    return x, {port.name: np.asarray(array) for port, array in named}


def rows_by_steps(model: RecurrentModel, x: torch.Tensor) -> Array:
    """Rows [N, T, W] as Infer gives them, and as sessions do if there are such."""
    with torch.inference_mode():
        rows = model.sequence(x, torch.full((len(x),), x.shape[1]))[0]
    if model.causal:
        stepped = torch.stack([run_steps(model, one) for one in x])
        torch.testing.assert_close(rows, stepped, rtol=0, atol=1e-6)
    return rows.numpy()


@pytest.mark.parametrize("name", CASES)
def test_a_case_of_the_suite(name: str, tmp_path: Path) -> None:
    x, expected = written(name, tmp_path / "case.onnx")
    import_file(tmp_path / "case.onnx", name="m", dir=tmp_path, check=True)
    model = load(tmp_path / "m")
    assert model.causal == (not name.endswith(("reverse", "bidirectional")))
    batchwise = name.endswith("batchwise")
    given = torch.from_numpy(x if batchwise else x.swapaxes(0, 1).copy())
    rows = rows_by_steps(model, given)
    ways = 2 if name.endswith("bidirectional") else 1
    y = rows.reshape(*rows.shape[:2], ways, -1)
    if "Y" in expected:
        wanted = expected["Y"] if batchwise else expected["Y"].transpose(2, 0, 1, 3)
        np.testing.assert_allclose(y, wanted, rtol=0, atol=1e-5)
    # Y_h has the last row of the forward direction, and the first one of the backward direction.
    ends = [-1] if model.causal else [0] if ways == 1 else [-1, 0]
    last = np.stack([y[:, end, way] for way, end in enumerate(ends)], axis=1)
    wanted = expected["Y_h"] if batchwise else expected["Y_h"].swapaxes(0, 1)
    np.testing.assert_allclose(last, wanted, rtol=0, atol=1e-5)
