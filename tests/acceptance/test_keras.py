"""Files that Keras 3 wrote, against the outputs of Keras 3."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from carousel_models import PackageError, import_file, load
from carousel_models.probe import run_steps, run_whole

from .originals import importable

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:keras")
"""Keras 3.15 is older than some deprecations of NumPy."""

ENDS = (".keras", ".h5", ".weights.h5")
Build = Callable[[Any], Any]


@pytest.fixture(scope="module")
def keras() -> Iterator[Any]:
    """Keras on torch, from the cache of originals."""
    with pytest.MonkeyPatch.context() as patch:
        importable(patch)
        patch.setenv("KERAS_BACKEND", "torch")
        import keras

        yield keras


def sequential(keras: Any, *layers: Any, width: int | None = 3, steps: int | None = None) -> Any:
    shape = (steps,) if width is None else (steps, width)
    return keras.Sequential([keras.Input(shape), *layers])


def lstm(keras: Any) -> Any:
    layers = keras.layers
    return sequential(keras, layers.LSTM(4, return_sequences=True), layers.Dense(2))


def gru(keras: Any) -> Any:
    layers = keras.layers
    return sequential(keras, layers.GRU(4, return_sequences=True), layers.Dense(2))


def gru_reset_before(keras: Any) -> Any:
    layers = keras.layers
    return sequential(
        keras, layers.GRU(4, return_sequences=True, reset_after=False), layers.Dense(2, use_bias=False)
    )  # fmt: skip


def without_bias(keras: Any) -> Any:
    layers = keras.layers
    return sequential(
        keras,
        layers.LSTM(4, return_sequences=True, use_bias=False),
        layers.GRU(4, return_sequences=True, use_bias=False, reset_after=False),
        layers.GRU(4, return_sequences=True, use_bias=False),
        layers.SimpleRNN(3, return_sequences=True, use_bias=False),
    )


def stacked(keras: Any) -> Any:
    layers = keras.layers
    return sequential(
        keras,
        layers.SimpleRNN(5, return_sequences=True),
        layers.SimpleRNN(4, return_sequences=True, activation="relu"),
        layers.LSTM(4, return_sequences=True, unit_forget_bias=False),
        layers.Dropout(0.5),
        layers.GRU(3, return_sequences=True, dropout=0.2, recurrent_dropout=0.1),
        layers.TimeDistributed(layers.Dense(6, activation="tanh")),
        layers.Dense(2, activation="linear"),
    )


def both_ways(keras: Any) -> Any:
    layers = keras.layers
    return sequential(
        keras,
        layers.Embedding(9, 3),
        layers.Bidirectional(layers.LSTM(4, return_sequences=True)),
        layers.Bidirectional(layers.GRU(3, return_sequences=True, reset_after=False)),
        layers.Dense(2),
        width=None,
    )


def normed(keras: Any) -> Any:
    layers = keras.layers
    return sequential(
        keras,
        layers.Normalization(mean=[1.0, -2.0, 3.0], variance=[4.0, 0.25, 1.0]),
        layers.Dense(5, activation="relu"),
        layers.LSTM(4, return_sequences=True),
        layers.LayerNormalization(),
        layers.BatchNormalization(),
        layers.GRU(6, return_sequences=True),
        layers.BatchNormalization(scale=False, epsilon=1e-2),
        layers.Dense(3, activation="elu"),
        layers.BatchNormalization(center=False),
        layers.PReLU(shared_axes=[1]),
        layers.LeakyReLU(0.25),
        layers.ReLU(6.0),
        layers.Activation("gelu"),
        layers.Dense(2),
    )


def adapted(keras: Any) -> Any:
    layers = keras.layers
    normalization = layers.Normalization()
    normalization.adapt(np.random.default_rng(1).normal(3, 2, size=(40, 5, 3)))
    return sequential(keras, normalization, layers.GRU(4, return_sequences=True))


def residuals(keras: Any) -> Any:
    layers = keras.layers
    x = given = keras.Input((None, 4))
    x = layers.Dropout(0.1)(layers.LSTM(4, return_sequences=True)(x))
    x = layers.LayerNormalization(epsilon=1e-5)(layers.Add()([x, given]))
    x = layers.Add()([x, layers.GRU(4, return_sequences=True)(layers.RMSNormalization()(x))])
    x = layers.Add()([layers.Dense(4, activation="silu")(x), x])
    return keras.Model(given, layers.Dense(2)(x))


def batch_normed_input(keras: Any) -> Any:
    layers = keras.layers
    tokens = layers.Embedding(9, 3)
    rnn = layers.SimpleRNN(4, return_sequences=True)
    return sequential(keras, tokens, layers.BatchNormalization(), rnn, width=None)


def of_cells(keras: Any) -> Any:
    layers = keras.layers
    constraint = {"kernel_constraint": "max_norm", "bias_regularizer": "l2"}
    cells = [
        layers.LSTMCell(4),
        layers.GRUCell(4, reset_after=False, **constraint),
        layers.SimpleRNNCell(4),
    ]
    return sequential(keras, *(layers.RNN(cell, return_sequences=True) for cell in cells))


MODELS: tuple[Build, ...] = (
    lstm, gru, gru_reset_before, of_cells, without_bias, stacked, both_ways, normed, adapted, residuals,
    batch_normed_input,
)  # fmt: skip


def with_weights(model: Any) -> Any:
    """The model with random weights, biases and statistics, so that none is at its default."""
    rng = np.random.default_rng(0)
    model.set_weights(
        [
            np.asarray(w) if "count" in v.path else
            rng.uniform(0.2, 2.0, w.shape) if "variance" in v.path else
            rng.normal(0, 0.5, w.shape)
            for v, w in zip(model.weights, model.get_weights(), strict=True)
        ]
    )  # fmt: skip
    return model


def saved(model: Any, path: Path) -> dict[str, Any]:
    """Writes a file. Returns the options that it is imported with."""
    if not path.name.endswith(".weights.h5"):
        model.save(path)
        return {}
    model.save_weights(path)
    config = path.with_name("config.json")
    config.write_text(model.to_json())
    return {"config": config}


@pytest.mark.parametrize("build", MODELS, ids=lambda build: build.__name__)
def test_each_file_gives_the_rows_of_keras(keras: Any, tmp_path: Path, build: Build) -> None:
    model = with_weights(build(keras))
    marks = set()
    for end in ENDS:
        path = tmp_path / f"model{end}"
        options = saved(model, path)
        notes: list[str] = []
        written = import_file(
            path, dir=tmp_path, check=True, overwrite=True, note=notes.append, **options
        )
        marks.add(written.fingerprint)
        assert notes[-1] == "the package gives the original's rows"
    assert len(marks) == 1, "the three files hold the same model"
    served = load(tmp_path / "model")
    rng = np.random.default_rng(2)
    tokens = bool(served.vocabulary)
    width = served.manifest.input.raw_width
    x = (
        rng.integers(9, size=40)
        if tokens
        else rng.normal(1, 2, size=(40, width)).astype(np.float32)
    )
    expected = keras.ops.convert_to_numpy(model(x[None], training=False))[0]
    runs = [run_whole(served, torch.from_numpy(x))]
    runs += [run_steps(served, torch.from_numpy(x))] if served.causal else []
    for run in runs:
        np.testing.assert_allclose(run.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_a_model_of_fixed_windows_gives_its_output_at_the_last_step(
    keras: Any, tmp_path: Path
) -> None:
    layers = keras.layers
    model = with_weights(
        sequential(
            keras,
            layers.Masking(),
            layers.LSTM(4, name="reader"),
            layers.BatchNormalization(axis=1),
            layers.Dense(3, activation="softmax"),
            steps=7,
        )
    )
    model.save(tmp_path / "window.keras")
    notes: list[str] = []
    import_file(
        tmp_path / "window.keras", dir=tmp_path, check=True, note=notes.append, unpadded=True
    )
    assert [note.split(":")[0] for note in notes] == [
        "masks are left out", "reader returned its last step alone",
        "the package gives the original's rows",
    ]  # fmt: skip
    served = load(tmp_path / "window")
    x = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    (rows,) = served.finish(run_steps(served, torch.from_numpy(x)))
    expected = keras.ops.convert_to_numpy(model(x[None], training=False))[0]
    np.testing.assert_allclose(rows[-1].numpy(), expected, rtol=1e-5, atol=1e-5)


def test_masks_of_a_functional_model(keras: Any, tmp_path: Path) -> None:
    """Keras 3 computes a mask by layers of its own, and calls each layer with it."""
    layers = keras.layers
    tokens = keras.Input((None,))
    x = layers.Embedding(9, 4, mask_zero=True)(tokens)
    x = layers.GRU(3, return_sequences=True)(layers.LSTM(4, return_sequences=True)(x))
    model = with_weights(keras.Model(tokens, layers.Dense(2)(x)))
    model.save(tmp_path / "m.keras")
    with pytest.raises(PackageError, match="masks steps of padding"):
        import_file(tmp_path / "m.keras", dir=tmp_path)
    notes: list[str] = []
    import_file(tmp_path / "m.keras", dir=tmp_path, check=True, note=notes.append, unpadded=True)
    assert notes == [
        "masks are left out: send no steps of padding", "the package gives the original's rows",
    ]  # fmt: skip
    x = np.random.default_rng(0).integers(1, 9, size=30)
    expected = keras.ops.convert_to_numpy(model(x[None], training=False))[0]
    found = run_steps(load(tmp_path / "m"), torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_an_original_that_keras_cannot_load_is_a_note(keras: Any, tmp_path: Path) -> None:
    layers = keras.layers
    tokens = keras.Input((None,))
    x = layers.LSTM(4, return_sequences=True)(layers.Embedding(9, 4, mask_zero=True)(tokens))
    keras.Model(tokens, x).save(tmp_path / "m.h5")  # Keras does not read this file itself
    notes: list[str] = []
    import_file(tmp_path / "m.h5", dir=tmp_path, check=True, note=notes.append, unpadded=True)
    assert notes[-1].startswith("not compared with the original: Keras 3.15.1 cannot load m.h5: ")


def test_an_importer_that_read_wrong_gates_would_be_refused(
    keras: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from carousel_models.importing.keras import recurrent

    monkeypatch.setitem(recurrent.FORMS, "GRU", recurrent.Form("rzh"))
    with_weights(gru(keras)).save(tmp_path / "m.keras")
    with pytest.raises(PackageError, match="differs from step 0 on"):
        import_file(tmp_path / "m.keras", dir=tmp_path, check=True)


def test_types_of_less_precision_are_noted(keras: Any, tmp_path: Path) -> None:
    layers = keras.layers
    cell = layers.LSTM(4, return_sequences=True, dtype="mixed_bfloat16", stateful=True)
    model = keras.Sequential([keras.Input(batch_shape=(2, None, 3)), cell])
    model.save(tmp_path / "m.keras")
    notes: list[str] = []
    import_file(tmp_path / "m.keras", dir=tmp_path, note=notes.append)
    assert notes == [
        "the model computed in mixed_bfloat16, and Carousel computes in float32",
        f"{cell.name} was stateful: here each session has its own state",
    ]
