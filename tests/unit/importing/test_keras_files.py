"""Files of older Keras, which no installed Keras writes any more, against the equations in float64."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from carousel_models import PackageError, import_file, load
from carousel_models.probe import run_steps

from .keras_files import (
    Array,
    dense,
    functional,
    keras_gru,
    keras_lstm,
    new_file,
    new_weights,
    old_file,
    random,
    recurrent,
    rng,
    sequential,
)

SHOULD = {"LSTM": keras_lstm, "GRU": keras_gru}


def rows_of(package: Path, x: Array) -> Array:
    rows: Array = run_steps(load(package), torch.from_numpy(x)).numpy()
    return rows


def test_a_whole_model_of_keras_2_2(tmp_path: Path) -> None:
    layers = [recurrent("LSTM"), dense(activation="tanh"), dense("out", 2, 3, activation="softmax")]
    old_file(tmp_path / "m.h5", layers, sequential(layers))
    written = import_file(tmp_path / "m.h5", dir=tmp_path)
    assert written.output.transform == "softmax"
    x = rng(7).normal(size=(20, 3)).astype(np.float32)
    (_, _, rnn), (_, _, (w, b)), (_, _, (v, d)) = layers
    expected = np.tanh(keras_lstm(x, *rnn) @ w + b) @ v + d
    np.testing.assert_allclose(rows_of(tmp_path / "m", x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", [{"reset_after": True}, {"reset_after": False}, {}])
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_both_forms(tmp_path: Path, kind: str, form: dict[str, bool]) -> None:
    layers = [recurrent(kind, **(form if kind == "GRU" else {}))]
    old_file(tmp_path / "m.h5", layers, sequential(layers))
    import_file(tmp_path / "m.h5", dir=tmp_path)
    x = rng(7).normal(size=(20, 3)).astype(np.float32)
    expected = SHOULD[kind](x, *layers[0][2])
    np.testing.assert_allclose(rows_of(tmp_path / "m", x), expected, rtol=1e-5, atol=1e-5)


def as_cudnn(matrix: Array, gates: int) -> Array:
    """[in, gates × units] as CuDNN layers store it: a gate holds cuDNN's [units, in] in memory's order."""
    return np.hstack([block.T.reshape(block.shape) for block in np.split(matrix, gates, axis=1)])


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_cudnn_layers(tmp_path: Path, kind: str) -> None:
    _, config, (kernel, inner, _) = recurrent(kind, reset_after=True)
    del config["recurrent_activation"], config["reset_after"]
    gates = len(kernel[0]) // 4
    bias = random(2, 4 * gates, seed=9)
    stored = [as_cudnn(kernel, gates), as_cudnn(inner, gates), bias.reshape(-1)]
    layers = [(f"CuDNN{kind}", config, stored)]
    old_file(tmp_path / "m.h5", layers, sequential(layers))
    import_file(tmp_path / "m.h5", dir=tmp_path)
    x = rng(7).normal(size=(20, 3)).astype(np.float32)
    expected = SHOULD[kind](x, kernel, inner, bias.sum(0) if kind == "LSTM" else bias)
    np.testing.assert_allclose(rows_of(tmp_path / "m", x), expected, rtol=1e-5, atol=1e-5)


def test_weights_alone_go_by_order_if_names_differ(tmp_path: Path) -> None:
    layers = [recurrent("LSTM", "lstm_7"), dense("dense_7")]
    renamed = [("LSTM", layers[0][1] | {"name": "lstm"}, []), ("Dropout", {"name": "d"}, []),
               ("Dense", layers[1][1] | {"name": "dense"}, [])]  # fmt: skip
    (tmp_path / "m.json").write_text(json.dumps(sequential(renamed)))
    old_file(tmp_path / "m.weights.h5", layers, None, parts=2)
    import_file(tmp_path / "m.weights.h5", dir=tmp_path, config=tmp_path / "m.json")
    x = rng(7).normal(size=(20, 3)).astype(np.float32)
    (_, _, rnn), (_, _, (w, b)) = layers
    expected = keras_lstm(x, *rnn) @ w + b
    np.testing.assert_allclose(rows_of(tmp_path / "m", x), expected, rtol=1e-5, atol=1e-5)


def test_weights_alone_go_by_order_even_if_names_are_swapped(tmp_path: Path) -> None:
    """A second model of a process has other numbers in its names, and Keras goes by order too."""
    one, two = recurrent("LSTM", "lstm_1"), recurrent("LSTM", "lstm", 4)
    new = [("LSTM", one[1] | {"name": "lstm"}, []), ("LSTM", two[1] | {"name": "lstm_1"}, [])]
    (tmp_path / "m.json").write_text(json.dumps(sequential(new)))
    old_file(tmp_path / "m.h5", [one, two], None)
    import_file(tmp_path / "m.h5", dir=tmp_path, config=tmp_path / "m.json")
    x = rng(7).normal(size=(20, 3)).astype(np.float32)
    expected = keras_lstm(keras_lstm(x, *one[2]), *two[2])
    np.testing.assert_allclose(rows_of(tmp_path / "m", x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("initializer", "named"),
    [
        ({"class_name": "Lambda", "config": {}}, "Lambda"),
        ({"module": "os", "class_name": "system", "config": "true"}, "os.system"),
        ({"module": "kerasx", "class_name": "Zeros", "config": {}}, "kerasx.Zeros"),
        ({"module": "builtins", "class_name": "eval", "config": "1"}, "builtins.eval"),
    ],
)
def test_no_code_of_a_file_runs_for_a_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, initializer: dict[str, Any], named: str
) -> None:
    from carousel_models.importing.keras import original

    monkeypatch.setattr(original, "find_spec", lambda _: True)
    layers = [recurrent("LSTM", kernel_initializer=initializer)]
    old_file(tmp_path / "m.h5", layers, sequential(layers))
    notes: list[str] = []
    import_file(tmp_path / "m.h5", dir=tmp_path, check=True, note=notes.append)
    assert notes == [f"not compared with the original: Keras would run code of the file: {named}"]


@pytest.mark.parametrize("container", ["layers", "_layer_checkpoint_dependencies"])
def test_equal_classes_are_counted(tmp_path: Path, container: str) -> None:
    one, two = recurrent("LSTM", "b"), recurrent("LSTM", "a", width=4)
    arrays = {"lstm/cell": one[2], "lstm_1/cell": [a * 2 for a in two[2]], "seed_generator": []}
    new_file(tmp_path / "m.keras", sequential([one, two]), new_weights(arrays, container))
    import_file(tmp_path / "m.keras", dir=tmp_path)
    x = rng(7).normal(size=(20, 3)).astype(np.float32)
    expected = keras_lstm(keras_lstm(x, *one[2]), *(a * 2 for a in two[2]))
    np.testing.assert_allclose(rows_of(tmp_path / "m", x), expected, rtol=1e-5, atol=1e-5)


def test_a_functional_model_of_keras_2(tmp_path: Path) -> None:
    layers = [
        ("InputLayer", {"name": "in"}, []),
        recurrent("GRU", "g", 4),
        ("Add", {"name": "sum"}, []),
    ]
    inputs = {"in": [], "g": [[["in", 0, 0, {}]]], "sum": [[["g", 0, 0, {}], ["in", 0, 0, {}]]]}
    old_file(tmp_path / "m.h5", layers, functional(layers, inputs))
    written = import_file(tmp_path / "m.h5", dir=tmp_path)
    assert written.stack[0].residual
    x = rng(7).normal(size=(20, 4)).astype(np.float32)
    expected = x + keras_gru(x, *layers[1][2])
    np.testing.assert_allclose(rows_of(tmp_path / "m", x), expected, rtol=1e-5, atol=1e-5)


def test_what_the_output_does_not_need_is_not_read(tmp_path: Path) -> None:
    layers = [
        ("InputLayer", {"name": "in"}, []), recurrent("GRU", "g", 4), ("Lambda", {"name": "rest"}, []),
    ]  # fmt: skip
    inputs = {"in": [], "g": [[["in", 0, 0, {}]]], "rest": [[["g", 0, 0, {}]]]}
    model = functional(layers, inputs, output_layers=[["g", 0, 0]])
    old_file(tmp_path / "m.h5", layers, model)
    assert import_file(tmp_path / "m.h5", dir=tmp_path).cell == "gru_reset_before"


def test_options_of_training_make_no_difference(tmp_path: Path) -> None:
    marks = set()
    for config in ({}, {"kernel_constraint": {"class_name": "MaxNorm"}, "unroll": True, "dropout": 0.5,
                        "implementation": 2, "trainable": True, "bias_regularizer": "l2"}):  # fmt: skip
        layers = [recurrent("LSTM", **config)]
        old_file(tmp_path / "m.h5", layers, sequential(layers))
        marks.add(import_file(tmp_path / "m.h5", dir=tmp_path, overwrite=True).fingerprint)
    assert len(marks) == 1


def test_without_keras_the_original_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from carousel_models.importing.keras import original

    monkeypatch.setattr(original, "find_spec", lambda _: None)
    layers = [recurrent("LSTM")]
    old_file(tmp_path / "m.h5", layers, sequential(layers))
    notes: list[str] = []
    import_file(tmp_path / "m.h5", dir=tmp_path, check=True, note=notes.append)
    assert notes == ["not compared with the original: keras is not installed"]


def test_zeros_of_a_negated_gate_keep_their_sign(tmp_path: Path) -> None:
    kind, config, arrays = recurrent("GRU")
    layers = [(kind, config, [np.zeros_like(array) for array in arrays])]
    old_file(tmp_path / "m.h5", layers, sequential(layers))
    import_file(tmp_path / "m.h5", dir=tmp_path)
    from safetensors.torch import load_file

    for name, value in load_file(tmp_path / "m/model.safetensors").items():
        assert not torch.signbit(value).any(), name


@pytest.mark.parametrize("given", [None, "sigmoid"])
@pytest.mark.parametrize("version", ["2.2.4", "2.2.4-tf", None])
def test_old_weights_must_say_their_gates(
    tmp_path: Path, version: str | None, given: str | None
) -> None:
    kind, config, arrays = recurrent("LSTM")
    del config["recurrent_activation"]
    (tmp_path / "m.json").write_text(json.dumps(sequential([(kind, config, arrays)])))
    old_file(tmp_path / "m.h5", [(kind, config, arrays)], None, version)
    options: dict[str, Any] = {"config": tmp_path / "m.json", "recurrent_activation": given}
    if given:
        assert import_file(tmp_path / "m.h5", dir=tmp_path, **options).cell == "lstm"
        return
    with pytest.raises(
        PackageError, match=r"Keras .* may have used hard_sigmoid; say which: --rec"
    ):
        import_file(tmp_path / "m.h5", dir=tmp_path, **options)


def test_newer_weights_have_sigmoid_gates(tmp_path: Path) -> None:
    kind, config, arrays = recurrent("LSTM")
    del config["recurrent_activation"]
    old_file(
        tmp_path / "m.h5", [(kind, config, arrays)], sequential([(kind, config, arrays)]), "2.3.0"
    )
    assert import_file(tmp_path / "m.h5", dir=tmp_path).cell == "lstm"


@pytest.mark.parametrize(
    ("config", "option"), [({"recurrent_activation": "hard_sigmoid"}, None), ({}, "hard_sigmoid")]
)
def test_a_model_like_chars2vec_is_refused(
    tmp_path: Path, config: dict[str, Any], option: str | None
) -> None:
    """Two LSTMs of Keras 2.2 with its default gates, as weights alone."""
    layers = [recurrent("LSTM", "lstm_1"), recurrent("LSTM", "lstm_2", 4, return_sequences=False)]
    for _, own, _ in layers:
        del own["recurrent_activation"]
        own.update(config)
    (tmp_path / "m.json").write_text(json.dumps(sequential(layers)))
    old_file(tmp_path / "m.h5", layers, None)
    with pytest.raises(
        PackageError, match=r"'lstm_1' \(LSTM\) has recurrent_activation=hard_sigmoid, .*; train"
    ):
        import_file(
            tmp_path / "m.h5", dir=tmp_path, config=tmp_path / "m.json", recurrent_activation=option
        )
