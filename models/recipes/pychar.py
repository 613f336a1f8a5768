"""Byte-level language models of Python code: `python -m models.recipes.pychar --cell lstm`.

Text is the running interpreter's standard library. All cells are trained alike: same sizes, same
data in the same order, same number of steps, same seed, same learning rate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from models.recipes.packaging import Quality, budget_of, corpus_facts, package, parser
from models.recipes.training import Budget, Record, mixed, optimise, printed
from torch import nn
from torch.nn import functional

from carousel_models.compare.cells import CELLS, compared
from carousel_models.compare.corpus import Corpus, standard_library
from carousel_models.compare.quality import text_quality
from carousel_models.model import RecurrentModel

VOCABULARY = 256
STEPS = 7500


@dataclass(frozen=True, slots=True)
class Plan:
    """All options of a training, except the data and the budget.

    Attributes:
        embedding: width of a byte's embedding.
        hidden: width of the recurrent layer.
        layers: recurrent layers.
        lanes: texts read side by side, the batch.
        truncation: steps through which gradients flow back; the state is carried on from there.
        fresh: probability with which a lane's state is zeroed at a truncation, so that the model also
            learns to begin, as every session does.
        peak_rate: highest learning rate.
        seed: of weights and of those zeroings.
        precision: of the matrix products in training; weights are float32 always.
    """

    embedding: int = 64
    hidden: int = 320
    layers: int = 1
    lanes: int = 64
    truncation: int = 64
    fresh: float = 0.02
    peak_rate: float = 3e-3
    seed: int = 1
    precision: str = "bfloat16"


class ByteModel(nn.Module):
    """Embedding, one kind of recurrent stack, and a linear head over the 256 bytes."""

    def __init__(self, cell: str, plan: Plan) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, plan.embedding)
        self.stack = compared(cell).make(plan.embedding, plan.hidden, plan.layers)
        self.head = nn.Linear(plan.hidden, VOCABULARY)

    def forward(
        self, ids: torch.Tensor, state: object
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """Reads int64[T, B] from a state, or from zero. Returns logits [T, B, 256] and the new state."""
        hidden, state = self.stack(self.embedding(ids), state)
        return self.head(hidden), state if isinstance(state, tuple) else (state,)


def windows(text: bytes, lanes: int, truncation: int) -> Iterator[torch.Tensor]:
    """Reads the text endlessly in `lanes` places at once: int64[truncation + 1, lanes] each time.

    Each window begins with the byte that the one before ended with, so that all bytes are predicted.
    """
    ids = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
    starts = torch.arange(lanes) * len(ids) // lanes
    offsets = torch.arange(truncation + 1)[:, None]
    while True:
        yield ids[(starts[None, :] + offsets) % len(ids)]
        starts = starts + truncation


def losses(model: ByteModel, text: bytes, plan: Plan) -> Iterator[torch.Tensor]:
    """The loss in nats per byte of each window. The state continues between windows."""
    draws = torch.Generator().manual_seed(plan.seed)
    state: tuple[torch.Tensor, ...] | None = None
    for window in windows(text, plan.lanes, plan.truncation):
        if state is not None:
            kept = torch.rand(plan.lanes, generator=draws) >= plan.fresh
            state = tuple(
                tensor.detach().float() * kept.view(-1, *(1,) * (tensor.dim() - 2))
                for tensor in state
            )
        given = state if state is None or len(state) > 1 else state[0]
        with mixed(plan.precision):
            logits, state = model(window[:-1], given)
        yield functional.cross_entropy(logits.float().flatten(0, 1), window[1:].flatten())


def train(
    cell: str,
    text: bytes,
    budget: Budget,
    plan: Plan,
    on_step: Callable[[Record], None] = lambda _: None,
) -> tuple[ByteModel, Record]:
    """Trains one model from scratch. `cell` is one of `compare.cells.CELLS`."""
    torch.manual_seed(plan.seed)
    model = ByteModel(cell, plan)
    record = optimise(
        model, losses(model, text, plan), budget, peak_rate=plan.peak_rate, on_step=on_step
    )
    return model, record


def bigram_bits(training: Corpus, held_out: Corpus) -> float:
    """The baseline: bits per byte if each byte is predicted from the one before it by counts."""
    pairs = torch.zeros(VOCABULARY, VOCABULARY, dtype=torch.float64) + 1.0
    seen = torch.frombuffer(bytearray(training.joined()), dtype=torch.uint8).long()
    pairs.index_put_((seen[:-1], seen[1:]), torch.ones((), dtype=torch.float64), accumulate=True)
    bits = -(pairs / pairs.sum(1, keepdim=True)).log2()
    new = torch.frombuffer(bytearray(held_out.joined()), dtype=torch.uint8).long()
    return float(bits[new[:-1], new[1:]].mean())


def write(
    zoo: Path, cell: str, model: ByteModel, record: Record, plan: Plan, data: tuple[Corpus, Corpus]
) -> Quality:
    """Makes the package `pychar-<cell>`. Returns its quality."""
    training, held_out = data

    def measure(served: RecurrentModel) -> Quality:
        found = text_quality(served, cell, held_out)
        return {
            "bits_per_byte": found.bits_per_byte,
            "next_byte_accuracy": found.accuracy,
            "baseline_bigram_bits_per_byte": bigram_bits(training, held_out),
        }

    return package(
        zoo / f"pychar-{cell}",
        measure,
        {
            "recipe": f"python -m models.recipes.pychar --cell {cell}",
            "plan": asdict(plan),
            **record.facts(),
            **corpus_facts(training, held_out),
        },
        embedding=model.embedding,
        stack=model.stack,
        head=model.head,
        tokenizer="bytes",
        description=(
            f"Python code, byte by byte: {compared(cell).label}, {plan.layers} layer of {plan.hidden}"
        ),
    )


def main() -> None:
    """The command."""
    flags = parser("pychar", "Train a byte-level language model of Python code.", STEPS)
    flags.add_argument("--cell", choices=list(CELLS), default="lstm")
    flags.add_argument("--precision", choices=("bfloat16", "float32"), default="bfloat16")
    options = flags.parse_args()
    budget = budget_of(options)
    plan = Plan(seed=options.seed, precision=options.precision)
    data = standard_library()
    model, record = train(options.cell, data[0].joined(), budget, plan, printed(50))
    print(write(options.zoo, options.cell, model, record, plan, data))


if __name__ == "__main__":
    main()
