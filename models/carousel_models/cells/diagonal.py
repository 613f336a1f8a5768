"""A diagonal linear recurrence of complex numbers: LRU and S5.

LRU: Orvieto et al. 2023, "Resurrecting Recurrent Neural Networks for Long Sequences" (arXiv 2303.06349).
S5: Smith, Warrington and Linderman 2023, "Simplified State Space Layers for Sequence Modeling" (arXiv
2208.04933).

h ← λ∘h + B x;  y = Re(C h) + D∘x. The cell stores λ and B as they act in a step, so it does not matter how
they were parametrised. A complex state is two states of real numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from carousel_models.layer_spec import LayerSpec

from .interface import CellCode, State, linear
from .modules import RecurrentLayers
from .scan import linear_scan


class DiagonalWeights(NamedTuple):
    """Weights of a direction.

    Attributes:
        decay_re: real part of λ, [hidden].
        decay_im: imaginary part of λ.
        ih: B [2 × hidden, in], real parts first.
        ho: C [width, 2 × hidden], real parts first.
        skip: D [width], or None.
        bias: added to y, [width], or None.
    """

    decay_re: Tensor
    decay_im: Tensor
    ih: Tensor
    ho: Tensor
    skip: Tensor | None
    bias: Tensor | None

    @classmethod
    def of(cls, _: LayerSpec, tensors: Mapping[str, Tensor]) -> DiagonalWeights:
        """See `CellCode.prepare`."""
        return cls(
            tensors["decay_re"], tensors["decay_im"], tensors["weight_ih"], tensors["weight_ho"],
            tensors.get("skip"), tensors.get("bias"),
        )  # fmt: skip

    def output(self, re: Tensor, im: Tensor, skipped: Tensor) -> Tensor:
        """Re(C h), and what does not go through h."""
        y = linear(torch.cat((re, -im), dim=-1), self.ho, self.bias)
        return y if self.skip is None else y + skipped


def share(x: Tensor, w: DiagonalWeights) -> Tensor:
    """B x, real parts first, and D∘x if there is a D."""
    rows = linear(x, w.ih)
    return rows if w.skip is None else torch.cat((rows, w.skip * x), dim=-1)


def step(rows: Tensor, state: State, w: DiagonalWeights) -> tuple[Tensor, State]:
    """One step; see the module's first lines."""
    re, im = state
    in_re, in_im, skipped = _split(rows, w)
    re, im = (
        w.decay_re * re - w.decay_im * im + in_re,
        w.decay_re * im + w.decay_im * re + in_im,
    )
    return w.output(re, im, skipped), (re, im)


def scan(rows: Tensor, state: State, w: DiagonalWeights) -> tuple[Tensor, State]:
    """Many steps at once."""
    in_re, in_im, skipped = _split(rows, w)
    added = torch.complex(in_re, in_im)
    decay = torch.complex(w.decay_re, w.decay_im).expand_as(added)
    h = linear_scan(decay, added, torch.complex(*state))
    return w.output(h.real, h.imag, skipped), (h[-1].real, h[-1].imag)


def _split(rows: Tensor, w: DiagonalWeights) -> tuple[Tensor, Tensor, Tensor]:
    """Real part and imaginary part of B x, and D∘x."""
    hidden = len(w.decay_re)
    return rows[..., :hidden], rows[..., hidden : 2 * hidden], rows[..., 2 * hidden :]


_CODE = CellCode(DiagonalWeights.of, share, step, scan)


class LRU(RecurrentLayers):
    """Layers of the linear recurrent unit, in the paper's exponential parametrisation.

    λ = exp(−exp(ν) + i·exp(θ)), which stays within the unit circle, and B is scaled by γ, so that h begins
    with the size of x. `proj_size` is the width of y, if it is not hidden_size. Option `skip`: D∘x is added,
    where x is as wide as y. The paper has no bias.
    """

    cell = "diagonal"
    code = _CODE

    ring: ClassVar[tuple[float, float]] = (0.9, 0.999)
    """Least and greatest |λ| before the training."""

    def shapes(self, inputs: int) -> dict[str, tuple[int, ...]]:
        """ν, θ and log γ instead of λ."""
        shapes = super().shapes(inputs)
        hidden = shapes.pop("decay_re")
        del shapes["decay_im"]
        return shapes | dict.fromkeys(("nu_log", "theta_log", "gamma_log"), hidden)

    def stored(self, layer: int, suffix: str = "") -> dict[str, Tensor]:
        """λ, and B as it acts in a step."""
        own = super().stored(layer, suffix)
        size, phase = torch.exp(-torch.exp(own.pop("nu_log"))), torch.exp(own.pop("theta_log"))
        scale = torch.exp(own.pop("gamma_log")).repeat(2)[:, None]
        own["weight_ih"] = scale * own["weight_ih"]
        return own | {"decay_re": size * torch.cos(phase), "decay_im": size * torch.sin(phase)}

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """λ uniform in the ring; B and C normal, with variances 1/(2 × in) and 1/hidden; D normal."""
        low, high = self.ring
        for nu, theta, gamma in zip(*map(self.named, _POLAR), strict=True):
            square = torch.empty_like(nu).uniform_(low**2, high**2)
            nu.copy_(torch.log(-torch.log(square) / 2))
            theta.copy_(torch.log(torch.empty_like(theta).uniform_(1e-3, 2 * math.pi)))
            gamma.copy_(torch.log1p(-square) / 2)
        for weight in self.named("weight_ih"):
            weight.normal_(std=(2 * weight.shape[1]) ** -0.5)
        for weight in self.named("weight_ho"):
            weight.normal_(std=self.hidden_size**-0.5)
        for skip in self.named("skip"):
            skip.normal_()
        for bias in self.named("bias"):
            bias.zero_()


_POLAR = ("nu_log", "theta_log", "gamma_log")


class Diagonal(RecurrentLayers):
    """Layers whose parameters are λ, B, C and D as they act in a step. To train, use `LRU`.

    `decay_re` and `decay_im` are λ. `weight_ih` is B and `weight_ho` is C, real parts first.
    """

    cell = "diagonal"
    code = _CODE

    @classmethod
    def from_continuous(
        cls, poles: Tensor, b: Tensor, c: Tensor, d: Tensor | None, step: Tensor
    ) -> Diagonal:
        """One layer of a continuous system h' = Λh + Bx, held constant between steps, as S5 does.

        Then λ = exp(ΛΔ) and B̄ = Λ⁻¹(λ − 1)B.

        Args:
            poles: Λ, complex[hidden]. Where S5 stores one of each conjugate pair, double `c`.
            b: B, complex[hidden, in].
            c: C, complex[width, hidden].
            d: D, float[width], or None.
            step: Δ, float[hidden] or one number.
        """
        decay = torch.exp(poles * step)
        b = ((decay - 1) / poles)[:, None] * b
        width, hidden = c.shape
        made = cls(b.shape[1], hidden, bias=False, proj_size=width, skip=d is not None)
        values = {
            "decay_re": decay.real,
            "decay_im": decay.imag,
            "weight_ih": torch.cat((b.real, b.imag)),
            "weight_ho": torch.cat((c.real, c.imag), dim=1),
        }
        values |= {} if d is None else {"skip": d}
        made.load_state_dict({f"{name}_l0": value for name, value in values.items()})
        return made
