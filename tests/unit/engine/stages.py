"""A small encoder with a decoder, and what it says by the equations in float64."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from carousel_models import Decoder, RecurrentModel, load, save

A, B, HIDDEN = 5, 7, 16
START, STOP, MOST = 1, 2, 12


class Translator:
    """Modules with random weights of a seed, large enough that texts differ and end at different places."""

    def __init__(self, seed: int = 4) -> None:
        torch.manual_seed(seed)
        self.embeddings = nn.Embedding(A, 6), nn.Embedding(B, 6)
        self.stacks = nn.GRU(6, HIDDEN), nn.GRU(6, HIDDEN)
        self.head = nn.Linear(HIDDEN, B)
        with torch.no_grad():
            for module in (*self.embeddings, *self.stacks, self.head):
                for weight in module.parameters():
                    weight.mul_(3)

    def model(self, kernel: str = "cpu") -> RecurrentModel:
        """As a package of it is loaded."""
        with TemporaryDirectory() as folder:
            self.save(Path(folder) / "translator")
            return load(Path(folder) / "translator", kernel=kernel)

    def save(self, path: Path) -> None:
        """Writes the package."""
        (mine, its), (one, two) = self.embeddings, self.stacks
        decoder = Decoder(
            embedding=its, stack=two, head=self.head, start=START, stop=STOP, most=MOST
        )
        names = [f"<{token}>" for token in range(B)]
        save(path, embedding=mine, stack=one, decoder=decoder, labels=names)

    def greedy(self, prompt: Sequence[int], penalty: float = 1.0) -> list[int]:
        """The likeliest tokens, without `stop`, of which there are at most MOST."""
        state = self._fed(prompt, None, 0)[1]
        said = [START]
        while len(said) <= MOST:
            logits, state = self._fed(said[-1:], state, 1)
            for token in set(said):
                logits[token] *= penalty if logits[token] < 0 else 1 / penalty
            token = int(logits.argmax())
            if token == STOP:
                break
            said.append(token)
        return said[1:]

    def _fed(
        self, tokens: Sequence[int], state: torch.Tensor | None, stage: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of the last token, and the state after it."""
        with torch.no_grad():
            rows = self.embeddings[stage].double()(torch.tensor(tokens))
            y, state = self.stacks[stage].double()(rows, state)
            return self.head.double()(y[-1]), state
