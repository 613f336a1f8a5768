"""Whole modules that no manifest describes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Concatenated(nn.Module):
    """A function of the input beside the output of the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 6)
        self.scale = nn.Parameter(torch.rand(6))
        self.lstm = nn.LSTM(6, 8, 2, batch_first=True)
        self.fc = nn.Sequential(nn.Linear(14, 9), nn.GELU("tanh"), nn.LayerNorm(9), nn.Linear(9, 4))

    def forward(self, x: Tensor) -> Tensor:
        e = self.embed(x) * self.scale
        return torch.softmax(self.fc(torch.cat([e.exp(), self.lstm(e)[0]], dim=-1)), -1)


class Gated(nn.Module):
    """A gate that multiplies rows, time first, from a learned state."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.gate = nn.GRU(3, 5), nn.Linear(3, 5)
        self.h0 = nn.Parameter(torch.randn(1, 1, 5))
        self.out = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:  # [T, B, 3]
        y, _ = self.gru(x, self.h0.expand(-1, x.shape[1], -1).contiguous())
        return self.out(torch.exp(-y.abs()) * torch.sigmoid(self.gate(x)))


class AroundTwoLayers(nn.Module):
    """A function of the input is added to rows of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return x.exp() + self.gru(x)[0]


class TwoBranches(nn.Module):
    """Two layers side by side, of which the last step counts."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.GRU(4, 5, batch_first=True), nn.RNN(4, 5, batch_first=True)
        self.out = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out((self.a(x)[0].exp() + self.b(x)[0])[:, -1])


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
            rows.append(self.out(torch.cat((state[0].exp(), h), 1)))
        return torch.stack(rows, 1)


class MeanPooled(nn.Module):
    """The mean over the steps."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.fc = nn.LSTM(4, 6, batch_first=True), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.lstm(x)
        return self.fc(y.mean(dim=1))


class ConvFront(nn.Module):
    """A convolution over time in front."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 6, 3, padding=1)
        self.gru, self.fc = nn.GRU(6, 6, batch_first=True), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(x.transpose(1, 2))).transpose(1, 2)
        return self.fc(self.gru(x)[0])


class Attention(nn.Module):
    """Attends over all steps."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(4, 8, batch_first=True)
        self.attn = nn.MultiheadAttention(8, 2, batch_first=True)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.rnn(x)
        y, _ = self.attn(y, y, y)
        return self.out(y)


class BothWaysLast(nn.Module):
    """The last states of both directions."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 5, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(10, 2)

    def forward(self, x: Tensor) -> Tensor:
        _, (h, _) = self.lstm(x)
        return self.fc(torch.cat((h[-2], h[-1]), dim=1))


class BothWaysEnd(BothWaysLast):
    """The last row of both directions."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.lstm(x)[0][:, -1])


class EncoderDecoder(nn.Module):
    """A second layer that begins with the state of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.GRU(4, 5, batch_first=True), nn.GRU(4, 5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        _, h = self.encoder(x)
        return self.decoder(x, h)[0]


class Feedback(nn.Module):
    """A cell that gets its own output."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.out = nn.LSTMCell(2, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        state, y, rows = None, x[:, 0], []
        for _ in range(x.shape[1]):
            state = self.cell(y, state)
            y = self.out(state[0])
            rows.append(y)
        return torch.stack(rows, 1)


class RandomBegin(nn.Module):
    """Begins with random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(x, torch.randn(1, x.shape[0], 5))[0]


class Positional(nn.Module):
    """Adds a row of its own to each step."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(64, 4))
        self.gru = nn.GRU(4, 5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(x + self.positions[: x.shape[1]])[0]


class WrongLayout(nn.Module):
    """Forgot batch_first in the second layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.GRU(4, 5, batch_first=True), nn.GRU(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x)[0])[0]


class AlwaysDrops(nn.Module):
    """F.dropout without training=self.training."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(self.gru(x)[0], 0.5)


class SoftmaxOverTime(nn.Module):
    """A softmax over the wrong dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.gru(x)[0], dim=1)


class SeveralOutputs(nn.Module):
    """A dict of two kinds of rows."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 5, batch_first=True)
        self.a, self.b = nn.Linear(5, 2), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> dict[str, Any]:
        y, _ = self.gru(x)
        return {"tags": self.a(y), "scores": self.b(y)}


class TwoTables(nn.Module):
    """Tokens that are looked up twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Embedding(9, 3), nn.Embedding(9, 2)
        self.gru = nn.GRU(5, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(torch.cat((self.a(x), self.b(x)), -1))[0]


class NoState(nn.Module):
    """Has no recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


class NeedsMore(nn.Module):
    """Has an argument that cannot be made."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 5, batch_first=True)

    def forward(self, x: Tensor, speaker: Tensor) -> Tensor:
        return self.gru(x)[0] * speaker


class Bfloat(nn.Module):
    """Fails for every input."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("no kernel image is available")


class BothWaysBeside(nn.Module):
    """The input beside layers that read both ways."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 3, bidirectional=True, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, self.lstm(x)[0]), dim=-1)


class BesideNumbers(nn.Module):
    """Constant numbers stand beside the rows of a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(4, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.rnn(x)[0]
        return torch.cat((y, torch.ones(*y.shape[:2], 2)), dim=-1)


class Decides(nn.Module):
    """Takes a way by the numbers of its rows, or by those that nothing changes."""

    def __init__(self, by: str) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 3, batch_first=True)
        self.register_buffer("gain", torch.tensor(2.0))
        self.by = by

    def forward(self, x: Tensor) -> Tensor:
        y = self.gru(x)[0]
        match self.by:
            case "bool":
                return y * 2 if y.sum() > 0 else y
            case "item":
                return y * 2 if x.max().item() > 1 else y
            case "after a write":
                gates = torch.zeros(1)
                gates[0] = y.mean()
                return y * 2 if float(gates) > 0 else y
            case "equal":
                return y * 2 if torch.equal(y, y.abs()) else y
            case "weights":
                return y * 2 if self.gain > 1 else y
        return y * 2 if y.shape[-1] == len(y[0, 0]) else y
