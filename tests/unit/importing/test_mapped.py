"""Arrays with a map, against the equations in float64."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from carousel_models import Manifest, PackageError, import_file, load
from carousel_models.probe import run_steps, run_whole
from carousel_models.row_parts import NormPart
from carousel_models.spec import ChainHead, FeaturesInput, LinearHead, MlpHead

from .keras_files import Array, keras_gru, keras_lstm, random, rng


def written(tmp_path: Path, arrays: dict[str, Array], text: str, **options: Any) -> Manifest:
    np.savez(tmp_path / "m.npz", **arrays)  # type: ignore[arg-type]
    (tmp_path / "m.toml").write_text(text)
    return import_file(tmp_path / "m.npz", dir=tmp_path, map=tmp_path / "m.toml", **options)


def rows(tmp_path: Path, x: Array) -> Array:
    found: Array = run_steps(load(tmp_path / "m"), torch.from_numpy(x)).numpy()
    return found


X = rng(7).normal(size=(20, 3)).astype(np.float32)
KERNEL, INNER, BIAS = random(3, 16, seed=1), random(4, 16, seed=2), random(16, seed=3)
"""Of keras_lstm: in rows, gates i f c o in columns."""

PLAIN = {"w": KERNEL.T, "u": INNER.T, "b": BIAS}
LSTM = """
[[layer]]
cell = "lstm"
weight_ih = "w"
weight_hh = "u"
bias = "b"
"""


def test_torch_s_layout_needs_names_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    rnn, head = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 2)
    arrays = {f"rnn.{n}": v.detach().numpy() for n, v in rnn.named_parameters()}
    arrays |= {f"fc.{n}": v.detach().numpy() for n, v in head.named_parameters()}
    text = """
    [[layer]]
    cell = "gru"
    weight_ih = "rnn.weight_ih_l0"
    weight_hh = "rnn.weight_hh_l0"
    bias_ih = "rnn.bias_ih_l0"
    bias_hh = "rnn.bias_hh_l0"
    [[head]]
    weight = "fc.weight"
    bias = "fc.bias"
    [output]
    transform = "softmax"
    labels = ["yes", "no"]
    """
    manifest = written(tmp_path, arrays, text)
    assert (manifest.labels, manifest.output.transform) == (("yes", "no"), "softmax")
    assert manifest.head == LinearHead(width=2)
    expected = head(rnn(torch.from_numpy(X)[None])[0])[0].detach().numpy()
    np.testing.assert_allclose(rows(tmp_path, X), expected, rtol=1e-5, atol=1e-6)


TURNED = {"w": KERNEL, "u": INNER, "b": BIAS}
JOINED = {"w": np.vstack([KERNEL, INNER]), "b": BIAS}
GATES = {f"{n}_{g}": a for n, m in {"w": KERNEL.T, "u": INNER.T, "b": BIAS}.items()
         for g, a in zip("ifco", np.split(m, 4), strict=True)}  # fmt: skip
OTHER_ORDER = {
    n: np.concatenate([np.split(a, 4)[k] for k in (0, 3, 1, 2)]) for n, a in PLAIN.items()
}
FORMS: dict[str, tuple[dict[str, Array], str]] = {
    "as it is": (PLAIN, LSTM),
    "turned": (TURNED, LSTM + "transpose = true"),
    "one turned": ({**PLAIN, "u": INNER},
                   LSTM.replace('"u"', '{ array = "u", transpose = true }')),
    "one not turned": ({**TURNED, "u": INNER.T},
                       LSTM.replace('"u"', '{ array = "u", transpose = false }') + "transpose = true"),
    "side by side": (JOINED, '[[layer]]\ncell="lstm"\nweight="w"\nbias="b"\ntranspose=true'),
    "other order": (OTHER_ORDER, LSTM + 'gates = "ioff"'.replace("ioff", "iofc")),
    "gate by gate": (GATES, """
        [[layer]]
        cell = "lstm"
        gates = "ofic"
        weight_ih = ["w_o", "w_f", "w_i", "w_c"]
        weight_hh = ["u_o", "u_f", "u_i", "u_c"]
        bias_hh = ["b_o", "b_f", "b_i", "b_c"]
     """),
    "forget bias": ({**PLAIN, "b": BIAS - np.repeat([0, 1, 0, 0], 4)}, LSTM + "forget_bias = 1.0"),
    "two biases": ({**PLAIN, "b": np.concatenate([BIAS / 4, BIAS * 0.75])}, LSTM),
    "two rows of biases": ({**PLAIN, "b": np.stack([BIAS / 4, BIAS * 0.75])}, LSTM),
    "doubles": ({name: array.astype(np.float64) for name, array in PLAIN.items()}, LSTM),
    "unused": ({**PLAIN, "adam.m": BIAS, "step": np.array(3)}, 'ignore = ["adam.*", "step"]' + LSTM),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_other_layouts(tmp_path: Path, form: str) -> None:
    written(tmp_path, *FORMS[form])
    np.testing.assert_allclose(rows(tmp_path, X), keras_lstm(X, KERNEL, INNER, BIAS), atol=1e-5)


def test_a_forget_bias_without_other_biases(tmp_path: Path) -> None:
    text = LSTM.replace('bias = "b"', "forget_bias = 1.0")
    written(tmp_path, {"w": KERNEL.T, "u": INNER.T}, text)
    bias = np.repeat([0.0, 1, 0, 0], 4)
    np.testing.assert_allclose(rows(tmp_path, X), keras_lstm(X, KERNEL, INNER, bias), atol=1e-5)


@pytest.mark.parametrize("before", [True, False])
def test_the_gru_s_of_others(tmp_path: Path, before: bool) -> None:
    kernel, inner = random(3, 12, seed=1), random(4, 12, seed=2)
    bias = random(*((12,) if before else (2, 12)), seed=3)
    cell = 'gru_reset_before"\nnegate = "z' if before else "gru"
    text = LSTM.replace("lstm", cell) + 'gates = "zrh"\ntranspose = true'
    written(tmp_path, {"w": kernel, "u": inner, "b": bias}, text)
    np.testing.assert_allclose(rows(tmp_path, X), keras_gru(X, kernel, inner, bias), atol=1e-5)


def test_all_parts(tmp_path: Path) -> None:
    one, two, out = random(5, 3, seed=1), random(5, 5, seed=2), random(2, 5, seed=3)
    vectors = {f"v{k}": random(5, seed=k) for k in range(4, 9)}
    arrays = {"one": one, "two": two, "out": out, "mean": random(3), "std": np.ones(3), **vectors}
    text = """
    [normalization]
    mean = "mean"
    std = "std"
    [[front]]
    weight = "one"
    bias = "v4"
    activation = "relu"
    [[layer]]
    cell = "rnn_tanh"
    weight_ih = "two"
    weight_hh = "two"
    residual = true
    norm = { weight = "v5", bias = "v6", eps = 0.1 }
    [[head]]
    kind = "scale"
    weight = "v7"
    [[head]]
    kind = "activation"
    activation = "leaky_relu"
    options = { negative_slope = 0.3 }
    [[head]]
    kind = "norm"
    norm = "rms"
    eps = 0.01
    [[head]]
    kind = "prelu"
    weight = "v8"
    [[head]]
    weight = "out"
    """
    manifest = written(tmp_path, arrays, text)
    assert isinstance(manifest.input, FeaturesInput)
    assert isinstance(manifest.head, ChainHead)
    h, expected = np.zeros(5), []
    for x in (X - arrays["mean"]).astype(np.float64):
        x = np.maximum(one @ x + vectors["v4"], 0)  # noqa: PLW2901 - as the rows go on
        h = np.tanh(two @ x + two @ h)
        y = h + x
        y = (y - y.mean()) / np.sqrt(y.var() + 0.1) * vectors["v5"] + vectors["v6"]
        y = y * vectors["v7"]
        y = np.where(y > 0, y, 0.3 * y)
        y = y / np.sqrt((y**2).mean() + 0.01)
        expected.append(out @ np.where(y > 0, y, vectors["v8"] * y))
    np.testing.assert_allclose(rows(tmp_path, X), expected, atol=1e-5)


def test_tokens_both_ways_from_safetensors(tmp_path: Path) -> None:
    torch.manual_seed(0)
    table, rnn = nn.Embedding(9, 3), nn.LSTM(3, 4, bidirectional=True, batch_first=True, bias=False)
    tensors = {
        "table": table.weight.detach().bfloat16(),
        **{n: v.detach() for n, v in rnn.named_parameters()},
    }
    save_file(tensors, tmp_path / "m.safetensors")
    (tmp_path / "m.toml").write_text("""
    embedding = "table"
    [[layer]]
    cell = "lstm"
    weight_ih = "weight_ih_l0"
    weight_hh = "weight_hh_l0"
    backward = { weight_ih = "weight_ih_l0_reverse", weight_hh = "weight_hh_l0_reverse" }
    """)
    manifest = import_file(tmp_path / "m.safetensors", dir=tmp_path, map=tmp_path / "m.toml")
    assert (manifest.vocabulary, manifest.causal) == (9, False)
    tokens = torch.arange(9)
    expected = rnn(tensors["table"].float()[tokens][None])[0][0].detach()
    torch.testing.assert_close(run_whole(load(tmp_path / "m"), tokens), expected)


DECODER = """
embedding = "mine"
[[layer]]
cell = "gru"
weight_ih = "one.weight_ih_l0"
weight_hh = "one.weight_hh_l0"
bias_ih = "one.bias_ih_l0"
bias_hh = "one.bias_hh_l0"
[decoder]
embedding = "its"
start = 0
stop = 3
most = 20
[[decoder.layer]]
cell = "gru"
weight_ih = "two.weight_ih_l0"
weight_hh = "two.weight_hh_l0"
bias_ih = "two.bias_ih_l0"
bias_hh = "two.bias_hh_l0"
[[decoder.head]]
weight = "fc"
[output]
labels = ["a", "b", "c", "d"]
"""


def two_stages() -> tuple[dict[str, Array], nn.GRU, nn.GRU]:
    torch.manual_seed(0)
    one, two = nn.GRU(2, 3), nn.GRU(2, 3)
    arrays = {f"one.{name}": value.detach().numpy() for name, value in one.named_parameters()}
    arrays |= {f"two.{name}": value.detach().numpy() for name, value in two.named_parameters()}
    arrays |= {
        "mine": random(5, 2, seed=1),
        "its": random(4, 2, seed=2),
        "fc": random(4, 3, seed=3),
    }
    return arrays, one, two


def test_a_decoder_continues_the_encoder(tmp_path: Path) -> None:
    arrays, one, two = two_stages()
    manifest = written(tmp_path, arrays, DECODER)
    assert manifest.decoder is not None
    assert (manifest.decoder.start, manifest.decoder.stop, manifest.decoder.most) == (0, 3, 20)
    found = rows(tmp_path, np.array([4, 0, 5 + 0, 5 + 2]))
    with torch.no_grad():
        _, h = one(torch.tensor(arrays["mine"][[4, 0]], dtype=torch.float32))
        y, _ = two(torch.tensor(arrays["its"][[0, 2]], dtype=torch.float32), h)
    np.testing.assert_array_equal(found[:2], np.zeros((2, 4)))
    np.testing.assert_allclose(found[2:], y.numpy() @ arrays["fc"].T, atol=1e-5)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('embedding = "its"', "", "decoder.embedding is missing"),
        ("stop = 3", "stop = 4", r"stop is 4, but the decoder's tokens are 0 … 3"),
        ("stop = 3", "", "decoder.stop"),
        ("most = 20", "most = 0", "greater than or equal to 1"),
        ('weight_hh = "two.weight_hh_l0"', 'weight_hh = "two.no"', "decoder.layer.0..weight_hh"),
        ('[[decoder.head]]\nweight = "fc"', "", "4 tokens, but its rows are 3 wide"),
    ],
)
def test_decoders_that_are_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in DECODER
    text = DECODER.replace(old, new)
    if "fc" not in text:
        text = 'ignore = ["fc"]\n' + text
    with pytest.raises(PackageError, match=message):
        written(tmp_path, two_stages()[0], text)
    assert not (tmp_path / "m").exists()


def test_an_mlp_and_a_transform(tmp_path: Path) -> None:
    arrays = {**PLAIN, "one": random(5, 4), "two": random(3, 5)}
    head = '[[head]]\nweight="one"\nactivation="tanh"\n[[head]]\nweight="two"\n[output]\neos=[]'
    manifest = written(tmp_path, arrays, LSTM + head)
    assert manifest.head == MlpHead(hidden=(5,), width=3, activation="tanh", bias=False)
    assert manifest.eos == ()


def test_a_norm_of_a_layer_has_its_eps(tmp_path: Path) -> None:
    manifest = written(
        tmp_path,
        PLAIN,
        LSTM + 'norm = { eps = 0.001 }\n[[head]]\nkind="activation"\nactivation="tanh"',
    )
    assert manifest.stack[0].after == () or isinstance(manifest.stack[0].after[0], NormPart)


HEAD = '[[head]]\nweight="x"\n'
REFUSED: list[tuple[str, dict[str, Array], str]] = [
    (r"layer\[0\].weight_hh is 'u', and the file has w, b; correct", {"w": KERNEL.T, "b": BIAS}, LSTM),
    (r"does not use the arrays x; name them, or put them into `ignore`", {**PLAIN, "x": BIAS}, LSTM),
    (r"does not use the arrays x0, .*x11 and 3 more", {**PLAIN, **{f"x{n}": BIAS for n in range(15)}}, LSTM),
    (r"layer\[0\].weight_ih, array 'w', is \[16\]; give one of 2 dim", {**PLAIN, "w": BIAS}, LSTM),
    (r"are not \[4 × hidden, in\]", {**PLAIN, "u": INNER}, LSTM),
    (r"are not \[4 × hidden, in\]", {**PLAIN, "w": KERNEL}, LSTM),
    (r"layer\[0\].bias has 15 numbers; give 16, or both", {**PLAIN, "b": BIAS[:15]}, LSTM),
    (r"are \[15\] and \[16\]; give \[16\]", {**PLAIN, "b": BIAS[:15]}, LSTM.replace("bias", "bias_ih")),
    (r"has weight, weight_ih and weight_hh", PLAIN, LSTM + 'weight = "w"'),
    (r"has bias, bias_ih and bias_hh", PLAIN, LSTM + 'bias_ih = "b"'),
    (r"layer\[0\].weight_hh is missing in the map", PLAIN, '[[layer]]\ncell="lstm"\nweight_ih="w"'),
    (r"weight is \[16, 3\], which is not", PLAIN, '[[layer]]\ncell="lstm"\nweight="w"'),
    (r"the gates 'ifg' are not those of lstm", PLAIN, LSTM + 'gates = "ifg"'),
    (r"lstm has no gate 'z' to negate", PLAIN, LSTM + 'negate = "z"'),
    (r"joins w \[16, 3\], u \[16, 4\]", PLAIN, LSTM.replace('"w"', '["w", "u"]')),
    (r"head\[0\].weight is missing in the map", PLAIN, LSTM + "[[head]]"),
    (r"head\[0\] has no activation", PLAIN, LSTM + '[[head]]\nkind = "activation"'),
    (r"head\[0\] takes rows of 5, and the part before gives rows of 4", {**PLAIN, "x": random(2, 5)},
     LSTM + HEAD),
    (r"layer\[0\] takes rows of 3, and the part before gives rows of 2", {**PLAIN, "x": random(7, 2)},
     'embedding = "x"' + LSTM),
    (r"layer\[0\] adds its input of 3 to rows of 4", PLAIN, LSTM + "residual = true"),
    (r"an embedding and a normalization", {**PLAIN, "x": random(7, 3)},
     'embedding="x"\nnormalization={mean="b", std="b"}' + LSTM),
    (r"directions of layer\[0\] have different sizes", {**PLAIN, "x": random(8, 3), "y": random(8, 2)},
     LSTM + 'backward = {weight_ih="x", weight_hh="y"}'),
    (r"no map of weights: layer: this field is missing", PLAIN, ""),
    (r"weights: layer.0.weigth_hh: there is no such field; correct it$", PLAIN, LSTM + 'weigth_hh = "x"'),
    (r"cell: Input should be .* or 'gru_reset_before'; correct it$", PLAIN, LSTM.replace("lstm", "min_gru")),
    (r"no map of weights: layer.0.cell: ", PLAIN, LSTM.replace("lstm", "conv")),
    (r"no map of weights: .*layers: there is no such field", PLAIN, LSTM.replace("layer", "layers")),
    (r"no map of weights: layer.0.hidden: ", PLAIN, LSTM + "hidden = 3"),
    (r"m.toml is not TOML: ", PLAIN, "layer ="),
    (r"the arrays b is <U1|array 'b' is <U1, and weights are real", {**PLAIN, "b": np.array(["x"])}, LSTM),
    (r"is complex64, and weights are real", {**PLAIN, "b": BIAS.astype(np.complex64)}, LSTM),
    (r"3 labels for 4 outputs", PLAIN, LSTM + '[output]\nlabels = ["a", "b", "c"]'),
    (r"holds? NaN|1 numbers that are NaN", {**PLAIN, "b": np.where(np.arange(16) == 3, np.nan, BIAS)}, LSTM),
]  # fmt: skip


@pytest.mark.parametrize(("message", "arrays", "text"), REFUSED, ids=[one[0] for one in REFUSED])
def test_refusals(tmp_path: Path, message: str, arrays: dict[str, Array], text: str) -> None:
    with pytest.raises(PackageError, match=message):
        written(tmp_path, arrays, text)
    assert not (tmp_path / "m").exists()


def test_a_gru_has_no_forget_gate(tmp_path: Path) -> None:
    arrays = {"w": random(12, 3), "u": random(12, 4), "b": random(12)}
    with pytest.raises(PackageError, match="gru has no forget gate; leave out forget_bias"):
        written(tmp_path, arrays, LSTM.replace("lstm", "gru") + "forget_bias = 1.0")


def test_arrays_need_a_map(tmp_path: Path) -> None:
    np.savez(tmp_path / "m.npz", w=BIAS)
    with pytest.raises(PackageError, match=r"m.npz has arrays without a model; say with --map"):
        import_file(tmp_path / "m.npz", dir=tmp_path)
    with pytest.raises(FileNotFoundError):
        import_file(tmp_path / "m.npz", dir=tmp_path, map=tmp_path / "none.toml")


def test_a_map_has_a_limit(tmp_path: Path) -> None:
    np.savez(tmp_path / "m.npz", w=BIAS)
    (tmp_path / "m.toml").write_text("#" * (1 << 20) + "#")
    with pytest.raises(PackageError, match="is larger than 1,048,576 bytes"):
        import_file(tmp_path / "m.npz", dir=tmp_path, map=tmp_path / "m.toml")


@pytest.mark.parametrize("name", ["m.npz", "m.safetensors"])
def test_damaged_files(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"none of these")
    (tmp_path / "m.toml").write_text(LSTM)
    with pytest.raises(PackageError, match="is no whole file of arrays"):
        import_file(tmp_path / name, dir=tmp_path, map=tmp_path / "m.toml")


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="is no whole file of arrays: Object arrays"):
        written(tmp_path, {**PLAIN, "b": np.array([print], dtype=object)}, LSTM)


def test_an_archive_that_would_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from carousel_models.importing import array_files

    monkeypatch.setattr(array_files, "MOST_BYTES", 100)
    with zipfile.ZipFile(tmp_path / "m.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w.npy", b"0" * 101)
    (tmp_path / "m.toml").write_text(LSTM)
    with pytest.raises(PackageError, match="has 101 bytes, of at most 100"):
        import_file(tmp_path / "m.npz", dir=tmp_path, map=tmp_path / "m.toml")


def test_weights_alone_cannot_be_compared(tmp_path: Path) -> None:
    notes: list[str] = []
    written(tmp_path, PLAIN, LSTM, check=True, note=notes.append)
    assert notes == [
        "not compared with the original: the file holds weights alone, and no model that can be run"
    ]
