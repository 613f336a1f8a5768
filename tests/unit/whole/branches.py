"""Whole modules whose rows branch and join, so that a manifest has a chain of parts for them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Concatenated(nn.Module):
    """The input beside the output of the layer, as in a dense skip."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 6)
        self.scale = nn.Parameter(torch.rand(6))
        self.lstm = nn.LSTM(6, 8, 2, batch_first=True)
        self.fc = nn.Sequential(nn.Linear(14, 9), nn.GELU("tanh"), nn.LayerNorm(9), nn.Linear(9, 4))

    def forward(self, x: Tensor) -> Tensor:
        e = self.embed(x) * self.scale
        return torch.softmax(self.fc(torch.cat([e, self.lstm(e)[0]], dim=-1)), -1)


class AroundTwoLayers(nn.Module):
    """A residual around a module of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gru(x)[0]


class TwoBranches(nn.Module):
    """Two layers side by side, of which the last step counts."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.GRU(4, 5, batch_first=True), nn.RNN(4, 5, batch_first=True)
        self.out = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out((self.a(x)[0] + self.b(x)[0])[:, -1])


class CellsSideBySide(nn.Module):
    """A loop over two cells whose rows are joined."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.LSTMCell(4, 5), nn.GRUCell(4, 3)
        self.h0 = nn.Parameter(torch.randn(3))
        self.out = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        state, h, rows = None, self.h0.expand(len(x), -1), []
        for t in range(x.shape[1]):
            state, h = self.a(x[:, t], state), self.b(x[:, t], h)
            rows.append(self.out(torch.cat((state[0], h), 1)))
        return torch.stack(rows, 1)


class GatedRows(nn.Module):
    """A gate computed from the input multiplies the rows, from a learned state."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.gate = nn.GRU(3, 5, 2, batch_first=True), nn.Linear(3, 5)
        self.h0 = nn.Parameter(torch.randn(2, 1, 5))
        self.mean, self.out = nn.Parameter(torch.randn(3)), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = (x - self.mean) / 2
        y, _ = self.gru(x, self.h0.expand(-1, len(x), -1).contiguous())
        return torch.sigmoid(self.out(y * torch.sigmoid(self.gate(x)) + 1))


class DenseSkips(nn.Module):
    """Each layer reads the rows of all layers before it, beside those of a front."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.LayerNorm(6))
        self.one, self.two = nn.LSTM(6, 5, batch_first=True), nn.GRU(11, 7, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        front = self.front(x)
        one = torch.cat([front, self.one(front)[0]], -1)
        two = self.two(one)[0]
        return torch.cat((one, two, front), dim=2) * 3 - 1


class AddedToItself(nn.Module):
    """Rows are added to themselves, and a residual is around residuals."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.a, self.b = nn.GRU(4, 4, batch_first=True), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.gru(x)[0]
        y = y + y
        inner = y + torch.relu(self.a(y))
        return y + inner + self.b(inner)
