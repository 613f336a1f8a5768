"""The manifests of parts that turn frames of a signal into spectra and back. No torch.

A complex row has all real parts first, and then all imaginary parts.
"""

from __future__ import annotations

from typing import Literal

from .outputs import Window
from .parts import Size
from .stack_parts import StackPart


class WindowPart(StackPart):
    """A frame times a periodic window of its width, as torch.hann_window and its like."""

    kind: Literal["window"] = "window"
    window: Window

    def leaves(self, *widths: int) -> int:
        """The width of the frame."""
        return sum(widths)


class RfftPart(StackPart):
    """The discrete Fourier transform of a frame of n real samples, as numpy.fft.rfft.

    X[k] = Σₛ x[s]·exp(−2πi·k·s/n) for k = 0 … n/2. The row has n//2 + 1 real parts, and then as many
    imaginary parts.
    """

    kind: Literal["rfft"] = "rfft"

    def leaves(self, *widths: int) -> int:
        """Twice the number of complex numbers."""
        return 2 * _bins(sum(widths))


class IrfftPart(StackPart):
    """The real frame of `samples` whose transform is a complex row, as numpy.fft.irfft.

    Imaginary parts of the first number, and of the last one if `samples` is even, are not read.
    """

    kind: Literal["irfft"] = "irfft"
    samples: Size

    def leaves(self, *widths: int) -> int:
        """The samples.

        Raises:
            ValueError: the row is not the transform of so many.
        """
        width, expected = sum(widths), 2 * _bins(self.samples)
        if width != expected:
            raise ValueError(
                f"a spectrum of {self.samples} samples has {expected} numbers, real parts and then imaginary "
                f"parts, but its rows have {width}"
            )
        return self.samples


class MagnitudePart(StackPart):
    """The absolute values √(re² + im²) of a complex row."""

    kind: Literal["magnitude"] = "magnitude"

    def leaves(self, *widths: int) -> int:
        """Half the width.

        Raises:
            ValueError: it is odd.
        """
        return _half(sum(widths))


class PhasePart(StackPart):
    """The angles atan2(im, re) of a complex row, from −π to π."""

    kind: Literal["phase"] = "phase"

    def leaves(self, *widths: int) -> int:
        """Half the width.

        Raises:
            ValueError: it is odd.
        """
        return _half(sum(widths))


class PolarPart(StackPart):
    """The complex row r·cos φ, r·sin φ of magnitudes r, the first source, and angles φ, the second."""

    kind: Literal["polar"] = "polar"

    def leaves(self, *widths: int) -> int:
        """Both widths together.

        Raises:
            ValueError: they are not two equal ones.
        """
        if len(widths) != 2 or widths[0] != widths[1]:
            raise ValueError(
                "it reads magnitudes and angles from two parts of equal width, but `from` gives rows of "
                + " and ".join(map(str, widths))
            )
        return sum(widths)


def _bins(samples: int) -> int:
    return samples // 2 + 1


def _half(width: int) -> int:
    if width % 2:
        raise ValueError(f"a complex row has an even width, but its rows have {width}")
    return width // 2
