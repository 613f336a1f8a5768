"""Packages saved from torch's own modules compute what those modules compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from carousel_models import load, save
from carousel_models.cells import OWN_MODULES
from tests.parity.conftest import difference, run_steps, run_whole

TOLERANCE = 2e-6  # same equations, same type: only the order of sums differs

MODULES: dict[str, type[nn.Module]] = {
    "RNN": nn.RNN,
    "LSTM": nn.LSTM,
    "GRU": nn.GRU,
    **{kind.__name__: kind for kind in OWN_MODULES},
}
OPTIONS: list[dict[str, Any]] = [
    {},
    {"num_layers": 2},
    {"num_layers": 3, "bias": False},
    {"num_layers": 2, "bidirectional": True},
    {"batch_first": True},
]
CASES = [(kind, options) for kind in MODULES for options in OPTIONS] + [
    ("RNN", {"nonlinearity": "relu", "num_layers": 2}),
    ("LSTM", {"proj_size": 3, "num_layers": 2}),
    ("LSTM", {"proj_size": 3, "bidirectional": True}),
    ("PeepholeLSTM", {"proj_size": 3, "num_layers": 2}),
    ("MinGRU", {"positive": True, "proj_size": 12, "num_layers": 2}),
    ("MinLSTM", {"positive": True, "proj_size": 3, "bidirectional": True}),
    ("SLSTM", {"heads": 2, "num_layers": 2}),
    ("MLSTM", {"heads": 4, "num_layers": 2}),
    ("LRU", {"skip": True, "proj_size": 5, "num_layers": 2}),
    ("Mamba", {"proj_size": 5, "num_layers": 2, "state_size": 4, "conv_width": 3, "dt_rank": 2}),
]


# torch says so of its own module; what we serve takes another path and is silent.
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize(("kind", "options"), CASES, ids=str)
def test_saved_module_gives_its_own_outputs(
    tmp_path: Path, kind: str, options: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    module = MODULES[kind](5, 8, **options)
    save(tmp_path / "m", stack=module)
    model = load(tmp_path / "m")
    x = torch.randn(9, 5)
    with torch.inference_mode():
        y, _ = module(x[None] if options.get("batch_first") else x[:, None])
    expected = y.reshape(9, -1).numpy()
    assert difference(run_whole(model, x.numpy()), expected) <= TOLERANCE
    if model.causal:
        assert difference(run_steps(model, x.numpy()), expected) <= TOLERANCE


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_shapes_of_the_tutorial(tmp_path: Path, kind: str) -> None:
    """nn.LSTM(5, 6, 2) and nn.GRU(5, 6, 2) on one sequence of three steps of five numbers."""
    torch.manual_seed(0)
    module = MODULES[kind](5, 6, 2, batch_first=True)
    save(tmp_path / "tutorial", stack=module)
    model = load(tmp_path / "tutorial")
    x = torch.randn(1, 3, 5)
    with torch.inference_mode():
        expected, final = module(x)
        raw, state = model.sequence(x, torch.tensor([3]))
    assert raw.shape == (1, 3, 6)
    torch.testing.assert_close(raw, expected)
    finals = final if isinstance(final, tuple) else (final,)
    by_layer = [finals[part][layer] for layer in range(2) for part in range(len(finals))]
    assert [tuple(tensor.shape) for tensor in state] == [(1, 6)] * len(by_layer)
    for found, wanted in zip(state, by_layer, strict=True):
        torch.testing.assert_close(found, wanted)


def test_bidirectional_batch_equals_packed_torch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.LSTM(4, 6, 2, bidirectional=True, batch_first=True)
    save(tmp_path / "m", stack=module)
    model = load(tmp_path / "m")
    lengths = torch.tensor([3, 7, 1, 5])
    x = torch.randn(4, 7, 4)
    with torch.inference_mode():
        packed = nn.utils.rnn.pack_padded_sequence(
            x, lengths, batch_first=True, enforce_sorted=False
        )
        expected, _ = nn.utils.rnn.pad_packed_sequence(module(packed)[0], batch_first=True)
        raw, state = model.sequence(x, lengths)
    torch.testing.assert_close(raw, expected)
    assert state == ()


def test_whole_model_equals_its_modules(tmp_path: Path) -> None:
    """Embedding, projection, layers with residual and norm, MLP head: as a forward pass would do."""
    torch.manual_seed(0)
    embedding, projection = nn.Embedding(40, 6), nn.Linear(6, 8)
    layers = [nn.LSTM(8, 8, batch_first=True), nn.GRU(8, 8, batch_first=True)]
    norms = [nn.LayerNorm(8), nn.LayerNorm(8)]
    head = nn.Sequential(nn.Linear(8, 10), nn.GELU(), nn.Dropout(0.5), nn.Linear(10, 4)).eval()
    save(
        tmp_path / "m",
        embedding=embedding,
        projection=projection,
        stack=layers,
        residual=[False, True],
        norms=norms,
        head=head,
    )
    model = load(tmp_path / "m")
    tokens = torch.randint(40, (11,))
    with torch.inference_mode():
        x = projection(embedding(tokens))[None]
        x = norms[0](layers[0](x)[0])
        expected = head(norms[1](layers[1](x)[0] + x))[0].numpy()
    assert difference(run_whole(model, tokens.numpy()), expected) <= TOLERANCE
    assert difference(run_steps(model, tokens.numpy()), expected) <= TOLERANCE
