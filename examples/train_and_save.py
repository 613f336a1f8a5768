"""Trains a small LSTM with plain PyTorch and saves it as a package that Carousel serves.

    python examples/train_and_save.py models/mine
    carousel serve --models models/mine

The model predicts the next value of a noisy sine wave from the values so far. The data has an offset and a
scale. The package stores both, so clients send raw values.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn

import carousel_models

MEAN, STD = 20.0, 5.0


def waves(count: int, steps: int) -> torch.Tensor:
    """Noisy sine waves of random period and phase, float32[count, steps, 1], around MEAN."""
    period = torch.rand(count, 1) * 20 + 10
    phase = torch.rand(count, 1) * 6.28
    clean = torch.sin(torch.arange(steps) * 6.28 / period + phase)
    return (MEAN + STD * (clean + 0.05 * torch.randn(count, steps)))[..., None]


def train(updates: int = 300) -> tuple[nn.LSTM, nn.Linear, float]:
    """Returns the modules and the last loss: mean squared error in units of STD."""
    torch.manual_seed(0)
    lstm, head = nn.LSTM(1, 32, batch_first=True), nn.Linear(32, 1)
    optimizer = torch.optim.Adam([*lstm.parameters(), *head.parameters()], lr=0.01)
    loss = torch.tensor(float("inf"))
    for _ in range(updates):
        x = (waves(32, 60) - MEAN) / STD
        predicted = head(lstm(x[:, :-1])[0])
        loss = nn.functional.mse_loss(predicted, x[:, 1:])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return lstm, head, loss.item()


def main(directory: Path, updates: int = 300) -> None:
    lstm, head, loss = train(updates)
    manifest = carousel_models.save(
        directory / "sine-lstm",
        stack=lstm,
        head=head,
        normalization=([MEAN], [STD]),
        description="next value of a noisy sine wave, in units of its amplitude",
        training={"data": "synthetic", "updates": updates, "mse": loss},
        overwrite=True,
    )
    print(f"loss {loss:.4f}; saved {manifest.name} {manifest.fingerprint[:12]} in {directory}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "models/mine"))
