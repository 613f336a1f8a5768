"""Measures the quality of a byte model on unseen text, in bits per byte."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch.nn import functional

from carousel_models.model import RecurrentModel

from .corpus import Corpus
from .results import Quality

PIECE_BYTES = 4096
"""Longest text in one piece. Each piece starts from a zero state, as a session does."""
CHUNK_STEPS = 256
"""Steps between two sums. It bounds the memory for logits."""


def _pieces(corpus: Corpus) -> list[bytes]:
    """All files in pieces. Pieces of one byte predict nothing and are left out."""
    pieces = (
        file.content[start : start + PIECE_BYTES]
        for file in corpus.files
        for start in range(0, len(file.content), PIECE_BYTES)
    )
    return sorted((piece for piece in pieces if len(piece) > 1), key=len, reverse=True)


def _padded(pieces: list[bytes]) -> tuple[torch.Tensor, torch.Tensor]:
    """int64[N, T] bytes and int64[N] lengths."""
    tensors = [torch.frombuffer(bytearray(piece), dtype=torch.uint8).long() for piece in pieces]
    lengths = torch.tensor([len(piece) for piece in pieces])
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True), lengths


def _chunks(
    model: RecurrentModel, ids: torch.Tensor, lengths: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Logits float32[n, 256] of all predicted places and the bytes that came, int64[n]."""
    state = None
    for start in range(0, ids.shape[1] - 1, CHUNK_STEPS):
        inputs = ids[:, start : min(start + CHUNK_STEPS, ids.shape[1] - 1)]
        left = (lengths - 1 - start).clamp(0, inputs.shape[1])
        raw, state = model.sequence(inputs, left, state)
        real = torch.arange(inputs.shape[1])[None, :] < left[:, None]
        yield raw[real], ids[:, start + 1 : start + 1 + inputs.shape[1]][real]


def text_quality(
    model: RecurrentModel,
    cell: str,
    corpus: Corpus,
    on_part: Callable[[float], None] = lambda _: None,
) -> Quality:
    """Reads the corpus in pieces of PIECE_BYTES, and measures how well each next byte is predicted.

    Args:
        model: a byte-level language model with raw logits, on the CPU.
        cell: the name for the result.
        corpus: what to read; at least one file of two bytes.
        on_part: called after each chunk with the share that is read, 0 … 1.
    """
    ids, lengths = _padded(_pieces(corpus))
    nats, right, count = 0.0, 0, 0
    with torch.inference_mode():
        for logits, truth in _chunks(model, ids, lengths):
            nats += float(functional.cross_entropy(logits, truth, reduction="sum"))
            right += int((logits.argmax(-1) == truth).sum())
            count += len(truth)
            on_part(count / int((lengths - 1).sum()))
    training = model.manifest.training
    return Quality(
        cell=cell,
        bits_per_byte=nats / count / math.log(2),
        accuracy=right / count,
        predicted_bytes=count,
        trained_steps=int(_number(training.get("steps"))),
        trained_wall_s=_number(training.get("wall_s")),
    )


def _number(value: object) -> float:
    """A number from a manifest's free notes, or 0."""
    return value if isinstance(value, int | float) else 0
