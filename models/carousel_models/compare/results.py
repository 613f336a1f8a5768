"""The results of a comparison, as plain data for JSON."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Structure:
    """The structure of a cell, read from the package.

    Attributes:
        cell: its name in `cells.CELLS`.
        equation: the step, in one line.
        gates: blocks of its weight matrices.
        state_tensors: names of what is kept per session and layer.
        layers: recurrent layers.
        hidden: width of a layer.
        stack_parameters: weights of the recurrent layers alone.
        parameters: weights of the whole model, embedding and head included.
        state_bytes: kept per session.
        package_bytes: size of the package on disk; 0 for a cell without one.
    """

    cell: str
    equation: str
    gates: int
    state_tensors: tuple[str, ...]
    layers: int
    hidden: int
    stack_parameters: int
    parameters: int
    state_bytes: int
    package_bytes: int


@dataclass(frozen=True, slots=True)
class Quality:
    """How well a model predicts the next byte of held-out Python code.

    Attributes:
        cell: its name in `cells.CELLS`.
        bits_per_byte: measured now; lower is better, 8 is guessing.
        accuracy: share of bytes that were the model's first choice.
        predicted_bytes: how many bytes that was measured on.
        trained_steps: optimiser steps behind it, from the manifest; 0 if unknown.
        trained_wall_s: seconds of that training, from the manifest; 0 if unknown.
    """

    cell: str
    bits_per_byte: float
    accuracy: float
    predicted_bytes: int
    trained_steps: int
    trained_wall_s: float


@dataclass(frozen=True, slots=True)
class Speed:
    """Time of one step of a batch, cells measured in turns.

    Attributes:
        cell: its name in `cells.CELLS`.
        batch: sessions stepped together.
        median_s: of all rounds.
        low_s: first quartile.
        high_s: third quartile.
        rounds: how many.
        steps_per_s: batch / median_s.
    """

    cell: str
    batch: int
    median_s: float
    low_s: float
    high_s: float
    rounds: int
    steps_per_s: float


@dataclass(frozen=True, slots=True)
class Recall:
    """Share of first symbols named after a gap of noise, after equal training; see recall.py.

    Attributes:
        cell: its name in `cells.CELLS`.
        gap: steps between the symbol and the question.
        trained: False if no gap as long was trained.
        accuracy: mean of the networks.
        low: of the worst network.
        high: of the best network.
        chance: what guessing gives.
    """

    cell: str
    gap: int
    trained: bool
    accuracy: float
    low: float
    high: float
    chance: float


@dataclass(frozen=True, slots=True)
class Fit:
    """Where a cell fits, in words that follow from the numbers."""

    cell: str
    strengths: tuple[str, ...]
    weaknesses: tuple[str, ...]
    fits: str


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine of the measurement.

    Attributes:
        processor: its name.
        threads: threads of one matrix product.
        torch: version of torch.
        python: version of Python.
        cores: logical processors.
        load_before: average number of programs that needed a core in the minute before. None if unknown.
    """

    processor: str
    threads: int
    torch: str
    python: str
    cores: int = 1
    load_before: float | None = None

    @property
    def busy(self) -> bool:
        """True if other programs had half of the cores or more before the measurement."""
        return self.load_before is not None and self.load_before >= self.cores / 2


@dataclass(frozen=True, slots=True)
class Comparison:
    """The three comparisons: structure, performance (quality, speed, recall), and where each fits.

    `quality` has the cells with a trained text model only.
    """

    machine: Machine
    structure: tuple[Structure, ...]
    quality: tuple[Quality, ...]
    speed: tuple[Speed, ...]
    recall: tuple[Recall, ...]
    fits: tuple[Fit, ...]
