"""The models that are measured: random weights of stated sizes."""

from __future__ import annotations

from pathlib import Path

from carousel_models import create

STEPPED = "lstm-2x256"
GENERATIVE = "gru-1x256-bytes"
WIDTH = 64


def make(folder: Path, dtype: str = "float32") -> Path:
    """Writes the packages into `folder`; returns it."""
    create(
        STEPPED, cell="lstm", layers=2, hidden=256, input=f"features:{WIDTH}", output=WIDTH,
        dtype=dtype, dir=folder,
    )  # fmt: skip
    create(
        GENERATIVE, cell="gru", hidden=256, input="tokens:256", output=256, dtype=dtype, dir=folder
    )
    return folder
