"""Silero VAD 6.2.3 at 16 kHz as a custom module, with the names of its JIT file's weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name that every torch reader knows

State = tuple[Tensor, Tensor, Tensor]

WEIGHTS = {
    "stft.weight": "stft.forward_basis_buffer",
    **{
        f"encoder.{2 * n}.{kind}": f"encoder.{n}.reparam_conv.{kind}"
        for n in range(4)
        for kind in ("weight", "bias")
    },
    **{
        f"rnn.{name}": f"decoder.rnn.{name}"
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    },
    "last.weight": "decoder.decoder.2.weight",
    "last.bias": "decoder.decoder.2.bias",
}
"""Names of the file's tensors by those of the module."""


class Vad(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        sizes = ((129, 128, 1), (128, 64, 2), (64, 64, 2), (64, 128, 1))
        self.stft = nn.Conv1d(1, 258, 256, 128, bias=False)
        convs = ((nn.Conv1d(a, b, 3, stride, 1), nn.ReLU()) for a, b, stride in sizes)
        self.encoder = nn.Sequential(*(layer for pair in convs for layer in pair))
        self.rnn, self.last = nn.LSTMCell(128, 128), nn.Conv1d(128, 1, 1)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        h, c, before = state
        joined = torch.cat((before, x), 1)
        real, imaginary = self.stft(F.pad(joined, (0, 64), "reflect")[:, None]).chunk(2, 1)
        features = self.encoder((real**2 + imaginary**2).sqrt())[..., 0]
        h, c = self.rnn(features, (h, c))
        return self.last(h.relu()[..., None])[..., 0].sigmoid(), (h, c, joined[:, -64:])
