"""Sound files in the WAV format, as chunks of samples, and signals that are written as such files."""

from __future__ import annotations

import wave
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .exits import usage_error

if TYPE_CHECKING:
    import carousel

CHUNK = 4096
"""Samples that are read at a time."""


def is_wav(source: str) -> bool:
    """True for the name of a WAV file."""
    return source.lower().endswith(".wav")


@contextmanager
def samples_of(path: Path, model: carousel.ModelInfo) -> Iterator[Iterator[Any]]:
    """The samples of a file as chunks int16[n].

    Raises:
        CliError: the model takes no frames, or the file is no sound of 16 bits, one channel and the model's
            rate.
    """
    import numpy as np

    signal = model.signal
    if signal is None:
        raise usage_error(
            f"{model.name} does not take sound",
            "name a file of CSV, or a model whose input is frames",
        )
    try:
        file = wave.open(str(path), "rb")  # noqa: SIM115 - closed below
    except (wave.Error, EOFError) as error:
        raise usage_error(
            f"{path} is not a WAV file of PCM: {error}", "convert it to one"
        ) from error
    with file:
        found = file.getframerate(), file.getnchannels(), 8 * file.getsampwidth()
        if found != (signal.rate, 1, 16):
            raise usage_error(
                f"{path} has {found[0]} samples a second, {found[1]} channels and {found[2]} bits",
                f"convert it to {signal.rate} samples a second, one channel and 16 bits",
            )
        yield (np.frombuffer(chunk, "<i2") for chunk in iter(lambda: file.readframes(CHUNK), b""))


def write_wav(path: Path, rate: int, rows: Iterable[Any]) -> int:
    """Writes a signal of floats from −1 to 1 as 16 bits, and returns how many samples were too large.

    Those become the largest number of 16 bits.
    """
    import numpy as np

    too_large = 0
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", "not compressed"))
        for row in rows:
            too_large += int((np.abs(row) > 1).sum())
            whole = np.clip(np.rint(np.asarray(row) * (1 << 15)), -(1 << 15), (1 << 15) - 1)
            file.writeframes(whole.astype("<i2").tobytes())
    return too_large
