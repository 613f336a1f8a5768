"""Saves a trained module as a package, with its measured quality."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from models.recipes.training import Budget

import carousel_models
from carousel_models.compare.corpus import Corpus
from carousel_models.model import RecurrentModel

ZOO = Path(__file__).resolve().parents[1] / "zoo"

Quality = dict[str, float]


def package(
    path: Path,
    measure: Callable[[RecurrentModel], Quality],
    training: Mapping[str, Any],
    **parts: Any,
) -> Quality:
    """Saves a package, measures it as a server would load it, and saves it again with the result.

    Args:
        path: the package's folder. It is replaced if it exists.
        measure: gives the quality of the loaded package on held-out data.
        training: the manifest's `training`, to which the quality is added.
        parts: arguments of `carousel_models.save`.
    """
    carousel_models.save(path, training=dict(training), overwrite=True, **parts)
    quality = {key: round(value, 5) for key, value in measure(carousel_models.load(path)).items()}
    notes = {**training, "quality": quality}
    carousel_models.save(path, training=notes, overwrite=True, **parts)
    return quality


def corpus_facts(training: Corpus, held_out: Corpus) -> dict[str, object]:
    """The data on which a model of Python code was trained and measured."""
    return {
        "data": "Python standard library sources; see carousel_models/compare/corpus.py",
        "data_bytes": training.size_bytes,
        "data_sha256": training.sha256,
        "held_out_bytes": held_out.size_bytes,
        "held_out_sha256": held_out.sha256,
    }


def parser(module: str, summary: str, steps: int) -> argparse.ArgumentParser:
    """The flags of all recipes."""
    flags = argparse.ArgumentParser(prog=f"python -m models.recipes.{module}", description=summary)
    flags.add_argument("--steps", type=int, default=steps, help="optimiser steps (%(default)s)")
    flags.add_argument("--seconds", type=float, default=float("inf"), help="stop after this time")
    flags.add_argument("--seed", type=int, default=1, help="of weights and draws (%(default)s)")
    flags.add_argument("--threads", type=int, default=0, help="of torch; 0 leaves its choice")
    flags.add_argument(
        "--zoo",
        type=Path,
        default=ZOO,
        help="folder of the packages; one of the same name is replaced",
    )
    return flags


def budget_of(options: argparse.Namespace) -> Budget:
    """The requested budget. It also sets torch's threads."""
    if options.threads:
        torch.set_num_threads(options.threads)
    return Budget(options.steps, options.seconds)
