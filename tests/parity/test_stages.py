"""An encoder and a decoder against the equations in float64: in any batch, by steps and as a whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from carousel_models import Decoder, Manifest, RecurrentModel, load, save

A, B, HIDDEN = 5, 7, 6
START, STOP, MOST = 1, 2, 9


class Modules:
    """An encoder and a decoder of torch, with a random seed."""

    def __init__(self, cell: str = "GRU", layers: int = 1) -> None:
        torch.manual_seed(3)
        make = getattr(nn, cell)
        self.embeddings = nn.Embedding(A, 4), nn.Embedding(B, 3)
        self.stacks = make(4, HIDDEN, layers), make(3, HIDDEN, layers)
        self.head = nn.Linear(HIDDEN, B)

    def save(self, path: Path, **more: object) -> Manifest:
        (mine, its), (one, two) = self.embeddings, self.stacks
        decoder = Decoder(
            embedding=its, stack=two, head=self.head, start=START, stop=STOP, most=MOST
        )
        return save(path, embedding=mine, stack=one, decoder=decoder, **more)  # type: ignore[arg-type]

    def rows(self, tokens: list[int]) -> np.ndarray:
        """The rows of a sequence by the equations of each stage, in float64."""
        state, rows = None, []
        for token in tokens:
            stage = int(token >= A)
            embedding, stack = self.embeddings[stage].double(), self.stacks[stage].double()
            y, state = stack(embedding(torch.tensor([token - A * stage])), state)
            row = self.head.double()(y)[0] if stage else torch.zeros(B)
            rows.append(row.detach().numpy())
        return np.stack(rows)


def sequences() -> list[list[int]]:
    """Encoder tokens and then a decoder's, at different times, and others in any order."""
    rng = np.random.default_rng(1)
    made = []
    for number in range(7):
        prompt = rng.integers(A, size=number)
        made.append([*prompt.tolist(), A + START, *(A + rng.integers(B, size=8 - number)).tolist()])
    return [*made, rng.integers(A + B, size=9).tolist()]


@pytest.fixture(params=["reference", "cpu"])
def kernel(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize(("cell", "layers"), [("GRU", 1), ("LSTM", 2), ("RNN", 1)])
def test_each_row_runs_in_the_stage_of_its_token(
    cell: str, layers: int, kernel: str, tmp_path: Path
) -> None:
    modules = Modules(cell, layers)
    modules.save(tmp_path / "m")
    model = load(tmp_path / "m", kernel=kernel)
    tokens = sequences()
    expected = np.stack([modules.rows(row) for row in tokens])
    x = torch.tensor(tokens)

    whole, last = model.sequence(x, torch.full((len(x),), x.shape[1]))
    np.testing.assert_allclose(whole.numpy(), expected, atol=2e-6)
    assert (whole.numpy()[expected == 0] == 0).all(), "rows of the encoder are zeros"

    state, rows = model.initial_state(len(x)), []
    for column in x.T:
        raw, state = model.step(column, state)
        rows.append(raw)
    np.testing.assert_allclose(torch.stack(rows, 1).numpy(), expected, atol=2e-6)
    for mine, its in zip(last, state, strict=True):
        np.testing.assert_allclose(mine.numpy(), its.numpy(), atol=2e-6)


def test_sequences_of_different_lengths_keep_their_own_states(kernel: str, tmp_path: Path) -> None:
    modules = Modules()
    modules.save(tmp_path / "m")
    model = load(tmp_path / "m", kernel=kernel)
    tokens = sequences()
    lengths = torch.tensor([9, 0, 3, 1, 9, 7, 5, 4])
    raw, state = model.sequence(torch.tensor(tokens), lengths)
    for number, (row, length) in enumerate(zip(tokens, lengths.tolist(), strict=True)):
        alone, end = model.sequence(
            torch.tensor([row[:length]]).reshape(1, -1), lengths[number, None]
        )
        np.testing.assert_allclose(raw[number, :length].numpy(), alone[0].numpy(), atol=1e-6)
        assert not raw[number, length:].any()
        np.testing.assert_allclose(state[0][number].numpy(), end[0][0].numpy(), atol=1e-6)


@pytest.mark.parametrize("slots", [True, False])
def test_bits_do_not_depend_on_the_neighbours_stage(
    kernel: str, slots: bool, tmp_path: Path
) -> None:
    Modules("LSTM", 2).save(tmp_path / "m")
    model = load(tmp_path / "m", kernel=kernel)
    generator = torch.Generator().manual_seed(0)
    size = 8
    state = tuple(torch.randn(size, *s.shape, generator=generator) for s in model.state_specs)
    before = tuple(tensor.clone() for tensor in state)
    order = torch.randperm(size, generator=generator)

    def step(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if slots:
            raw, new = model.step(x, state, order)
        else:
            raw, new = model.step(x, tuple(tensor[order] for tensor in state))
        return (raw, *new)

    mixed = torch.tensor([0, A, 3, A + 2, A + 6, 1, 4, A + 1])
    found = step(mixed)
    for stage, tokens in enumerate((mixed.clamp(max=A - 1), mixed.clamp(min=A))):
        chosen = (mixed >= A) == bool(stage)
        for mine, alone in zip(found, step(tokens), strict=True):
            assert torch.equal(mine[chosen], alone[chosen])
    assert all(torch.equal(a, b) for a, b in zip(state, before, strict=True)), "nothing is changed"


def test_what_is_spoilt_in_a_state_of_the_encoder_is_looked_for(tmp_path: Path) -> None:
    """Its rows are zeros, so they do not show it."""
    Modules("LSTM").save(tmp_path / "m")
    model = load(tmp_path / "m")
    assert model.unseen_states == (0, 1)


def test_a_rounded_package_is_near_the_equations(tmp_path: Path) -> None:
    modules = Modules()
    modules.save(tmp_path / "m", dtype="bfloat16")
    model: RecurrentModel = load(tmp_path / "m")
    tokens = sequences()
    raw, _ = model.sequence(torch.tensor(tokens), torch.full((len(tokens),), 9))
    np.testing.assert_allclose(raw.numpy(), [modules.rows(row) for row in tokens], atol=0.05)
