"""Spectra against numpy in float64, and rows that are joined: added, multiplied, side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from carousel_models.chain_parts import RowsPart
from carousel_models.joining_parts import AddPart, ConcatPart, MultiplyPart
from carousel_models.row_parts import LinearPart
from carousel_models.spec import Architecture, FeaturesInput
from carousel_models.spectral_parts import (
    IrfftPart,
    MagnitudePart,
    PhasePart,
    PolarPart,
    RfftPart,
    WindowPart,
)

from .chains import check_pieces, made, random_rows, stepped


def frames(width: int) -> torch.Tensor:
    """Two sequences of frames with loud and quiet bins."""
    t = torch.arange(width) / width
    loud = 100 * torch.sin(2 * torch.pi * 3 * t)
    return random_rows(2, 6, width) * 1e-3 + loud


def run(width: int, *parts: Any) -> tuple[np.ndarray, np.ndarray]:
    """The frames in float64, and what the parts give."""
    x = frames(width)
    model, _ = made(width, *parts)
    assert model.state_specs == ()
    check_pieces(model, x, [6, 2])
    return x.double().numpy(), stepped(model, x).numpy()


@pytest.mark.parametrize("width", [1, 2, 15, 16, 512])
def test_a_transform_is_numpys(width: int) -> None:
    x, found = run(width, RfftPart(name="a"))
    spectra = np.fft.rfft(x)
    expected = np.concatenate((spectra.real, spectra.imag), axis=-1)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("window", "function"),
    [
        ("none", np.ones_like),
        ("hann", lambda t: 0.5 - 0.5 * np.cos(t)),
        ("sqrt_hann", lambda t: np.sin(t / 2)),
        ("hamming", lambda t: 0.54 - 0.46 * np.cos(t)),
    ],
)
def test_windows_are_periodic(window: Any, function: Any) -> None:
    x, found = run(20, WindowPart(name="a", window=window))
    np.testing.assert_allclose(
        found, x * function(2 * np.pi * np.arange(20) / 20), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("width", [1, 2, 15, 16, 512])
def test_an_inverse_gives_the_frames_back(width: int) -> None:
    x, found = run(width, RfftPart(name="a"), IrfftPart(name="b", samples=width))
    np.testing.assert_allclose(found, x, rtol=1e-6, atol=1e-5)


def test_an_inverse_is_numpys_for_any_row() -> None:
    """Also where the first and the last number are not real, as behind a program."""
    x, found = run(18, IrfftPart(name="a", samples=16))
    spectra = x[..., :9] + 1j * x[..., 9:]
    np.testing.assert_allclose(found, np.fft.irfft(spectra, n=16), rtol=1e-6, atol=1e-6)


def test_magnitudes_and_phases_are_numpys() -> None:
    x, found = run(16, MagnitudePart(name="a"))
    numbers = x[..., :8] + 1j * x[..., 8:]
    np.testing.assert_allclose(found, np.abs(numbers), rtol=1e-6)
    _, angles = run(16, PhasePart(name="a"))
    np.testing.assert_allclose(angles, np.angle(numbers), rtol=1e-6)


def test_magnitudes_do_not_overflow_or_vanish() -> None:
    model, _ = made(2, MagnitudePart(name="a"))
    x = torch.tensor([[3e30, 4e30], [3e-30, 4e-30], [0.0, 0.0]])
    found = model.step(x, ())[0][:, 0]
    torch.testing.assert_close(found, torch.tensor([5e30, 5e-30, 0.0]), rtol=1e-6, atol=0)


def test_polar_numbers_are_put_together_again() -> None:
    x, found = run(
        16,
        RfftPart(name="s"),
        MagnitudePart(name="m", from_=("s",)),
        PhasePart(name="p", from_=("s",)),
        PolarPart(name="z", from_=("m", "p")),
        IrfftPart(name="y", samples=16),
    )
    np.testing.assert_allclose(found, x, rtol=1e-6, atol=1e-4)


def test_a_mask_scales_real_and_imaginary_parts() -> None:
    model, tensors = made(
        8,
        RfftPart(name="s"),
        MagnitudePart(name="m"),
        RowsPart(name="mask", parts=(LinearPart(width=5),)),
        MultiplyPart(name="z", from_=("s", "mask")),
    )
    x = random_rows(2, 6, 8)
    spectra = np.fft.rfft(x.double().numpy())
    mask = np.abs(spectra) @ tensors["mask.0.weight"].numpy().T + tensors["mask.0.bias"].numpy()
    expected = mask * spectra
    found = stepped(model, x).numpy()
    np.testing.assert_allclose(found[..., :5], expected.real, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[..., 5:], expected.imag, rtol=1e-4, atol=1e-5)


def test_rows_are_added_multiplied_and_put_side_by_side() -> None:
    linear = RowsPart(name="l", parts=(LinearPart(width=4, bias=False),))
    x = random_rows(2, 6, 4)
    sources = ("input", "l")
    for part, function in (
        (AddPart(name="j", from_=sources), lambda a, b: a + b),
        (MultiplyPart(name="j", from_=sources), lambda a, b: a * b),
        (ConcatPart(name="j", from_=sources), lambda a, b: torch.cat((a, b), dim=-1)),
    ):
        model, tensors = made(4, linear, part)
        expected = function(x.double(), x.double() @ tensors["l.0.weight"].T)
        torch.testing.assert_close(stepped(model, x).double(), expected, rtol=1e-5, atol=1e-6)
    model, tensors = made(4, linear, AddPart(name="j", from_=("l", "input", "l")))
    expected = x.double() + 2 * (x.double() @ tensors["l.0.weight"].T)
    torch.testing.assert_close(stepped(model, x).double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        ((IrfftPart(name="a", samples=8),), "a spectrum of 8 samples has 10 numbers, .* have 7"),
        ((MagnitudePart(name="a"),), "part 'a': a complex row has an even width, but its rows have 7"),
        ((PhasePart(name="a"),), "even width"),
        ((PolarPart(name="a"),), "two parts of equal width, but `from` gives rows of 7"),
        ((AddPart(name="a"),), "adds rows of equal width, but `from` gives rows of 7"),
        ((MultiplyPart(name="a"),), "multiplies two rows"),
        ((RfftPart(name="a"), AddPart(name="b", from_=("a", "input"))), "rows of 8 and 7"),
        ((RfftPart(name="a"), MultiplyPart(name="b", from_=("a", "input"))), "rows of 8 and 7"),
        ((RfftPart(name="a"), PolarPart(name="b", from_=("a", "input"))), "rows of 8 and 7"),
    ],
)  # fmt: skip
def test_rows_that_do_not_fit_are_refused(parts: Any, problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        Architecture(input=FeaturesInput(width=7), parts=parts)
