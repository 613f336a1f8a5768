"""Windows, and functions of frames and spectra for the kinds of `spectral_parts`.

The functions compute in float64 and round once. So a small number beside a large one keeps its digits.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

WINDOWS: dict[str, Callable[[int], Tensor]] = {
    "none": torch.ones,
    "hann": torch.hann_window,
    "sqrt_hann": lambda width: torch.hann_window(width).sqrt(),
    "hamming": torch.hamming_window,
}
"""One entry for each name in `outputs.Window`. All are periodic."""


def rfft(frames: Tensor) -> Tensor:
    """Real frames [..., n] → complex rows [..., 2·(n//2 + 1)]."""
    spectra = torch.fft.rfft(frames.double())
    return torch.cat((spectra.real, spectra.imag), dim=-1).float()


def irfft(rows: Tensor, samples: int) -> Tensor:
    """Complex rows [..., 2·(samples//2 + 1)] → real frames [..., samples]."""
    frames: Tensor = torch.fft.irfft(torch.complex(*_halves(rows)), n=samples)
    return frames.float()


def magnitude(rows: Tensor) -> Tensor:
    """Complex rows [..., 2·n] → absolute values [..., n]."""
    real, imaginary = _halves(rows)
    return (real * real + imaginary * imaginary).sqrt().float()


def phase(rows: Tensor) -> Tensor:
    """Complex rows [..., 2·n] → angles [..., n]."""
    real, imaginary = _halves(rows)
    return torch.atan2(imaginary, real).float()


def polar(rows: Tensor) -> Tensor:
    """Absolute values and angles, [..., 2·n] → complex rows [..., 2·n]."""
    length, angle = _halves(rows)
    return torch.cat((length * angle.cos(), length * angle.sin()), dim=-1).float()


def _halves(rows: Tensor) -> tuple[Tensor, Tensor]:
    first, second = rows.double().chunk(2, dim=-1)
    return first, second
