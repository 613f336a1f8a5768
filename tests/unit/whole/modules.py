"""Whole modules as people write them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name that every torch reader knows
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class Tagger(nn.Module):
    """A tag for each word."""

    def __init__(self) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(40, 12, padding_idx=0)
        self.lstm = nn.LSTM(12, 16)
        self.hidden2tag = nn.Linear(16, 5)

    def forward(self, sentence: Tensor) -> Tensor:  # [T, B], as the tutorial has it
        embeds = self.word_embeddings(sentence)
        lstm_out, _ = self.lstm(embeds)
        tag_space = self.hidden2tag(lstm_out)
        return F.log_softmax(tag_space, dim=-1)


class CharModel(nn.Module):
    """A character model with a state that is handed on, and flat logits."""

    def __init__(self, cell: str = "LSTM") -> None:
        super().__init__()
        self.hidden, self.layers = 16, 2
        self.drop = nn.Dropout(0.5)
        self.encoder = nn.Embedding(30, 16)
        self.rnn = getattr(nn, cell)(16, 16, 2, dropout=0.3, batch_first=True)
        self.decoder = nn.Linear(16, 30)
        self.decoder.weight = self.encoder.weight  # tied

    def forward(self, x: Tensor, hidden: Any) -> tuple[Tensor, Any]:
        emb = self.drop(self.encoder(x))
        output, hidden = self.rnn(emb, hidden)
        output = self.drop(output).contiguous().view(-1, self.hidden)
        return self.decoder(output), hidden

    def init_hidden(self, batch: int) -> Any:
        weight = next(self.parameters())
        zeros = weight.new_zeros(self.layers, batch, self.hidden)
        return (zeros, zeros.clone()) if isinstance(self.rnn, nn.LSTM) else zeros


class OneHotChars(nn.Module):
    """Characters as rows with a single 1."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(11, 9, nonlinearity="relu", batch_first=True)
        self.fc = nn.Linear(9, 11)

    def forward(self, tokens: Tensor) -> Tensor:
        x = F.one_hot(tokens, num_classes=11).to(self.fc.weight.dtype)
        return self.fc(self.rnn(x)[0])


class Forecaster(nn.Module):
    """The next value of a series, from zeros made in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(input_size=1, hidden_size=20, num_layers=2, batch_first=True)
        self.fc = nn.Linear(20, 1)

    def forward(self, x: Tensor) -> Tensor:
        h0 = torch.zeros(2, x.size(0), 20).to(x.device).to(x.dtype)
        c0 = torch.zeros(2, x.size(0), 20, device=x.device, dtype=x.dtype).requires_grad_()
        out, (_hn, _cn) = self.lstm(x, (h0.detach(), c0.detach()))
        return self.fc(out[:, -1, :])


class MultivariateForecaster(nn.Module):
    """A GRU forecaster that normalises its input with stored constants."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([1000.0, -3.0, 0.2]))
        self.register_buffer("std", torch.tensor([2.0, 0.1, 40.0]))
        self.gru = nn.GRU(3, 14, batch_first=True)
        self.head = nn.Sequential(nn.Linear(14, 8), nn.LeakyReLU(0.2), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = (x - self.mean) / self.std
        y, _ = self.gru(x)
        return self.head(y)


class Sentiment(nn.Module):
    """A score for a text, from the last h of the last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 10)
        self.gru = nn.GRU(10, 12, num_layers=2, batch_first=True, dropout=0.1)
        self.fc1, self.fc2 = nn.Linear(12, 6), nn.Linear(6, 1)

    def forward(self, text: Tensor) -> Tensor:
        _, h_n = self.gru(self.embedding(text))
        hidden = F.dropout(F.relu(self.fc1(h_n[-1])), p=0.2, training=self.training)
        return torch.sigmoid(self.fc2(hidden)).squeeze(1)


class PackedSentiment(nn.Module):
    """The same with packed sequences and lengths."""

    def __init__(self, enforce_sorted: bool = True) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 10)
        self.lstm = nn.LSTM(10, 12, batch_first=True)
        self.fc = nn.Linear(12, 2)
        self.enforce_sorted = enforce_sorted

    def forward(self, text: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(
            self.embedding(text), lengths.cpu(), True, self.enforce_sorted
        )
        _, (h, _) = self.lstm(packed)
        return self.fc(h.squeeze(0))


class PackedTagger(nn.Module):
    """Packed, and padded again."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 6, batch_first=True)
        self.out = nn.Linear(6, 3)

    def forward(self, x: Tensor, x_lens: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, x_lens, batch_first=True, enforce_sorted=False)
        y, _ = self.gru(packed)
        y, _ = pad_packed_sequence(y, batch_first=True)
        return self.out(y).softmax(-1)


class SpeechFront(nn.Module):
    """Spectra, normalised, projected, then layers with norms between, as of a keyword spotter."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(20, eps=1e-3)
        self.front = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Dropout(0.1))
        self.gru1, self.ln1 = nn.GRU(16, 16, batch_first=True), nn.LayerNorm(16)
        self.gru2, self.ln2 = nn.GRU(16, 16, batch_first=True), nn.LayerNorm(16, eps=1e-6)
        self.out = nn.Linear(16, 4)

    def forward(self, spec: Tensor) -> Tensor:  # [B, T, 20]
        x = self.front(self.norm(spec))
        x = self.ln1(self.gru1(x)[0])
        x = self.ln2(self.gru2(x)[0])
        return self.out(x)


class ChannelsFirst(nn.Module):
    """Sound as [batch, time, mel], with BatchNorm over channels and time first inside."""

    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(8)
        self.lstm = nn.LSTM(8, 10)
        self.bn2 = nn.BatchNorm1d(10)
        self.fc = nn.Conv1d(10, 3, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(x.transpose(1, 2))  # [B, F, T]
        y, _ = self.lstm(x.permute(2, 0, 1))  # [T, B, F]
        y = self.bn2(y.permute(1, 2, 0))
        return self.fc(y).transpose(1, 2)


class BatchNormHead(nn.Module):
    """A classifier with a BatchNorm in its head, from the last step."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 12, batch_first=True)
        self.classifier = nn.Sequential(
            nn.Linear(12, 10), nn.BatchNorm1d(10), nn.ReLU(inplace=True), nn.Dropout(0.5),
            nn.Linear(10, 4),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.lstm(x)
        return self.classifier(out[:, -1])


class ResidualStack(nn.Module):
    """Layers of one width, each with its input added, then normalised."""

    def __init__(self, layers: int = 3) -> None:
        super().__init__()
        self.proj = nn.Linear(5, 12)
        self.rnns = nn.ModuleList(nn.LSTM(12, 12, batch_first=True) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(12) for _ in range(layers))
        self.dropout = nn.Dropout(0.2)
        self.out = nn.Linear(12, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(x)
        for rnn, norm in zip(self.rnns, self.norms, strict=True):
            y, _ = rnn(x)
            x = norm(x + self.dropout(y))
        return self.out(x)


class Block(nn.Module):
    """A block with a norm first, a linear layer behind the cell, and a feed-forward part."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.LayerNorm(width, elementwise_affine=False)
        self.gru, self.down = (
            nn.GRU(width, 2 * width, batch_first=True),
            nn.Linear(2 * width, width),
        )
        self.ff = nn.Sequential(nn.Linear(width, 20), nn.GELU("tanh"), nn.Linear(20, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.down(self.gru(self.norm1(x))[0])
        return x + self.ff(self.norm2(x))


class PreNormModel(nn.Module):
    """Blocks as in newer language models, with a scaled embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(21, 8)
        self.blocks = nn.Sequential(Block(8), Block(8))
        self.norm = nn.RMSNorm(8, eps=1e-6)
        self.lm_head = nn.Linear(8, 21, bias=False)

    def forward(self, idx: Tensor) -> dict[str, Tensor]:
        x = self.embed(idx) * math.sqrt(8)
        return {"logits": self.lm_head(self.norm(self.blocks(x)))}


class CellLoop(nn.Module):
    """A loop over LSTMCell, with zeros made by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.cell1, self.cell2 = nn.LSTMCell(3, 7), nn.LSTMCell(7, 7)
        self.linear = nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        n = x.size(0)
        h1, c1, h2, c2 = (torch.zeros(n, 7, dtype=x.dtype) for _ in range(4))
        outputs = []
        for x_t in x.split(1, dim=1):
            h1, c1 = self.cell1(x_t.squeeze(1), (h1, c1))
            h2, c2 = self.cell2(h1, (h2, c2))
            outputs += [self.linear(h2)]
        return torch.cat([o.unsqueeze(1) for o in outputs], dim=1)


class GruCellLoop(nn.Module):
    """Cells without an argument at first, and results written into a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(4, 5, bias=False)
        self.out = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        hx = None
        result = x.new_zeros(x.shape[0], x.shape[1], 3)
        for t in range(x.shape[1]):
            hx = self.cell(x[:, t, :], hx)
            result[:, t] = torch.tanh(self.out(hx))
        return result


class RnnCellLast(nn.Module):
    """The state after a loop, time first."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.RNNCell(4, 6, nonlinearity="relu")
        self.out = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:  # [T, B, 4]
        h = torch.zeros(x.shape[1], 6, dtype=x.dtype)
        for step in x:
            h = self.cell(step, h)
        return self.out(h)


class StepLoop(nn.Module):
    """A loop that gives an nn.LSTM one step at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 6, 2, batch_first=True)
        self.out = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        state, ys = None, []
        for t in range(x.shape[1]):
            y, state = self.lstm(x[:, t : t + 1], state)
            ys.append(self.out(y[:, 0]))
        return torch.stack(ys, dim=1)


class Several(nn.Module):
    """RNNs of different kinds one after another, with activations between."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.GRU(4, 8, 2)
        self.b = nn.LSTM(8, 10, proj_size=5)
        self.c = nn.RNN(5, 6)
        self.out = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:  # [T, B, 4]
        y, _ = self.a(x)
        y, (_, _) = self.b(F.elu(y, 0.5))
        y, _ = self.c(F.hardtanh(y, -0.1, 0.1))
        return F.softmax(self.out(F.softplus(y, beta=2)), dim=2)


class Functional(nn.Module):
    """Weights as parameters, and functions instead of modules."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(4, 6, batch_first=True)
        self.w1, self.b1 = nn.Parameter(torch.randn(7, 6)), nn.Parameter(torch.randn(7))
        self.w2, self.b2 = nn.Parameter(torch.randn(7, 3)), nn.Parameter(torch.randn(3))
        self.gain, self.shift = nn.Parameter(torch.rand(6)), nn.Parameter(torch.rand(1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.rnn(2 * x - 1)[0]
        y = F.layer_norm(self.gain * y + self.shift, (6,))
        y = torch.relu(F.linear(y, self.w1, self.b1))
        return y @ self.w2 + self.b2


class BiTagger(nn.Module):
    """Both directions: whole sequences only."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(30, 6)
        self.lstm = nn.LSTM(6, 7, 2, bidirectional=True, batch_first=True)
        self.fc = nn.Linear(14, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.tanh(self.lstm(self.emb(x))[0]))


class ArgmaxTagger(nn.Module):
    """Gives tags and not scores."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 9, batch_first=True)
        self.fc = nn.Linear(9, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.gru(x)[0]).argmax(dim=-1)


class TopKTagger(ArgmaxTagger):
    """Gives the best tags with their probabilities."""

    def forward(self, x: Tensor) -> Any:
        scores = torch.softmax(self.fc(self.gru(x)[0]), dim=-1)
        return torch.topk(scores, 2, dim=-1)


class ManyActivations(nn.Module):
    """An MLP head with one of each."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 8, batch_first=True)
        kinds = (nn.SELU(), nn.Mish(), nn.Hardswish(), nn.Hardsigmoid(), nn.CELU(0.5), nn.SiLU(),
                 nn.PReLU(), nn.PReLU(8), nn.Softsign(), nn.LogSigmoid(), nn.ReLU6(),
                 nn.Tanhshrink(), nn.GELU(), nn.RReLU(), nn.Identity())  # fmt: skip
        layers: list[nn.Module] = []
        for kind in kinds:
            layers += [nn.Linear(8, 8), kind]
        self.head = nn.Sequential(nn.Flatten(0, 1), *layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(x)[0]).view(x.shape[0], x.shape[1], 8)


class Outer(nn.Module):
    """Modules in modules, with keyword arguments and a tuple as result."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = ResidualStack(1)
        self.head = nn.ModuleDict({"main": nn.Linear(2, 3), "aux": nn.Linear(2, 9)})

    def forward(self, features: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y = self.encoder(x=features)
        return self.head["main"](y), self.head["aux"](y).mean(dim=1)
