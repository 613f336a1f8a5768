"""A bidirectional tagger of Python code: `python -m models.recipes.pytag`.

Every byte gets its lexical class (lexical.py). Both directions matter: whether a quote opens or closes a
string is known from the left, whether a triple quote is ever closed only from the right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from models.recipes.lexical import LABELS, NotPythonError, classes
from models.recipes.packaging import Quality, budget_of, corpus_facts, package, parser
from models.recipes.training import Budget, Record, mixed, optimise, printed
from torch import nn
from torch.nn import functional

from carousel_models.compare.corpus import Corpus, standard_library
from carousel_models.model import RecurrentModel
from carousel_models.spec import SelectArgmax

VOCABULARY = 256
STEPS = 1600


@dataclass(frozen=True, slots=True)
class Plan:
    """All options of a training, except the data and the budget.

    Attributes:
        embedding: width of a byte's embedding.
        hidden: width of each direction of each layer.
        layers: recurrent layers.
        batch: crops per step.
        crop: bytes per crop, cut from anywhere.
        peak_rate: highest learning rate.
        seed: of weights and crops.
        precision: of the matrix products in training; weights are float32 always.
    """

    embedding: int = 32
    hidden: int = 64
    layers: int = 2
    batch: int = 32
    crop: int = 384
    peak_rate: float = 4e-3
    seed: int = 1
    precision: str = "bfloat16"


class Tagger(nn.Module):
    """Embedding, bidirectional LSTM, linear head over the classes."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, plan.embedding)
        self.stack = nn.LSTM(plan.embedding, plan.hidden, plan.layers, bidirectional=True)
        self.head = nn.Linear(2 * plan.hidden, len(LABELS))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Logits [T, B, classes] of int64[T, B]."""
        logits: torch.Tensor = self.head(self.stack(self.embedding(ids))[0])
        return logits


def tagged(corpus: Corpus) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Every file that is not empty and can be tokenized: its bytes and their classes, int64[n] each."""
    files = []
    for file in corpus.files:
        if not file.content:
            continue
        try:
            truth = torch.from_numpy(classes(file.content)).long()
        except NotPythonError:
            continue
        files.append((torch.frombuffer(bytearray(file.content), dtype=torch.uint8).long(), truth))
    return files


def losses(
    model: Tagger, files: Sequence[tuple[torch.Tensor, torch.Tensor]], plan: Plan
) -> Iterator[torch.Tensor]:
    """The loss in nats per byte of one batch of random crops of the joined files after the other."""
    ids, truth = (torch.cat(parts) for parts in zip(*files, strict=True))
    draws = torch.Generator().manual_seed(plan.seed)
    offsets = torch.arange(plan.crop)[:, None]
    while True:
        starts = torch.randint(len(ids) - plan.crop + 1, (1, plan.batch), generator=draws)
        places = starts + offsets
        with mixed(plan.precision):
            logits = model(ids[places])
        yield functional.cross_entropy(logits.float().flatten(0, 1), truth[places].flatten())


def train(
    files: Sequence[tuple[torch.Tensor, torch.Tensor]],
    budget: Budget,
    plan: Plan,
    on_step: Callable[[Record], None] = lambda _: None,
) -> tuple[Tagger, Record]:
    """Trains a new model on the files of `tagged`."""
    torch.manual_seed(plan.seed)
    model = Tagger(plan)
    record = optimise(
        model, losses(model, files, plan), budget, peak_rate=plan.peak_rate, on_step=on_step
    )
    return model, record


def confusion(model: RecurrentModel, corpus: Corpus) -> torch.Tensor:
    """Runs whole files through the package: int64[classes, classes], truth by row."""
    files = tagged(corpus)
    lengths = torch.tensor([len(truth) for _, truth in files])
    ids = nn.utils.rnn.pad_sequence([ids for ids, _ in files], batch_first=True)
    with torch.inference_mode():
        raw, _ = model.sequence(ids, lengths)
        (named,) = model.finish(raw)
    counts = torch.zeros(len(LABELS), len(LABELS), dtype=torch.int64)
    for row, (_, truth) in zip(named, files, strict=True):
        pairs = truth * len(LABELS) + row[: len(truth)]
        counts += torch.bincount(pairs, minlength=len(LABELS) ** 2).view_as(counts)
    return counts


def measure(model: RecurrentModel, corpus: Corpus) -> Quality:
    """Accuracy per byte, mean F1 of the classes, and the accuracy of always naming the commonest class."""
    counts = confusion(model, corpus).double()
    right, truths, named = counts.diag(), counts.sum(1), counts.sum(0)
    f1 = 2 * right / (truths + named).clamp(min=1)
    commonest = truths / truths.sum()
    baseline_f1 = 2 * commonest.max() / (1 + commonest.max()) / len(LABELS)
    return {
        "accuracy": float(right.sum() / counts.sum()),
        "macro_f1": float(f1.mean()),
        "baseline_majority_accuracy": float(commonest.max()),
        "baseline_majority_macro_f1": float(baseline_f1),
    }


def write(
    zoo: Path, model: Tagger, record: Record, plan: Plan, data: tuple[Corpus, Corpus]
) -> Quality:
    """Makes the package `pytag-bilstm`. Returns its quality."""
    training, held_out = data
    return package(
        zoo / "pytag-bilstm",
        lambda served: measure(served, held_out),
        {
            "recipe": "python -m models.recipes.pytag",
            "plan": asdict(plan),
            **record.facts(),
            **corpus_facts(training, held_out),
        },
        embedding=model.embedding,
        stack=model.stack,
        head=model.head,
        select=SelectArgmax(),
        tokenizer="bytes",
        labels=LABELS,
        description="Python source to the lexical class of every byte: bidirectional LSTM",
    )


def main() -> None:
    """The command."""
    flags = parser("pytag", "Train a tagger of Python code.", STEPS)
    flags.add_argument("--precision", choices=("bfloat16", "float32"), default="bfloat16")
    options = flags.parse_args()
    budget = budget_of(options)
    plan = Plan(seed=options.seed, precision=options.precision)
    data = standard_library()
    model, record = train(tagged(data[0]), budget, plan, printed(50))
    print(write(options.zoo, model, record, plan, data))


if __name__ == "__main__":
    main()
