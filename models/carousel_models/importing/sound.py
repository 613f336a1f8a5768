"""Imported models whose rows are samples of a signal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from torch import Tensor

from carousel_models.agreement import Reference
from carousel_models.errors import PackageError
from carousel_models.spec import FeaturesInput, FramesInput

from .imported import Imported, NoOriginalError

Encoding = Literal["pcm16", "float32"]


def as_frames(imported: Imported, rate: int, encoding: Encoding) -> Imported:
    """The same model with frames instead of rows of numbers: each step brings a row's samples.

    Args:
        imported: what a reader gave.
        rate: samples a second.
        encoding: of the samples that clients send. The model reads 16 bits as floats from −1 to 1.

    Raises:
        PackageError: the input is tokens, or is normalised.
        ValidationError: the rate is out of range.
    """
    source = imported.parts["input"]
    if not isinstance(source, FeaturesInput) or source.normalization is not None:
        raise PackageError(
            "--rate is for models whose rows are plain samples, and this one takes tokens or normalised "
            "numbers; leave it out"
        )
    frames = FramesInput(
        hop=source.width,
        rate=rate,
        encoding=encoding,
        projection=source.projection,
        front=source.front,
    )

    def original() -> Reference:
        return _of_samples(imported.original(), frames)

    return replace(imported, parts=imported.parts | {"input": frames}, original=original)


def _of_samples(reference: Reference, frames: FramesInput) -> Reference:
    """A reference that takes samples as clients send them."""
    if frames.row.dtype == "float32":
        return reference
    if isinstance(reference, tuple):
        raise NoOriginalError("its own rows are floats, and clients will send samples of 16 bits")
    run: Callable[[Tensor], object] = reference

    def of_samples(x: Tensor) -> object:
        return run(x.float() * frames.factor)

    return of_samples
