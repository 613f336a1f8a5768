"""Convolutions as products of windows: over time with a state, or inside each row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name that every torch reader knows

from .cells import State
from .chain_parts import ConvPart, RowConvPart
from .kernels import Kernel
from .kernels.reference import gather
from .stack import StateSpec

Product = Callable[[Tensor], Tensor]
"""Windows float32[..., kernel, inputs] → float32[..., channels]."""


class ConvStack:
    """A causal convolution over time. A step reads its own row and rows of the context.

    Args:
        part: what the manifest says.
        width: of its rows.
        product: of its windows; see `window_product`.
        batch_invariant: True if the bits of `product` are the same in a batch of any size.
    """

    half = False

    def __init__(
        self, part: ConvPart, width: int, product: Product, *, batch_invariant: bool
    ) -> None:
        self._reach = part.reach
        self._taps = range(0, part.reach + 1, part.dilation)
        self._product = product
        self.state_specs = tuple(map(StateSpec.of, part.states(width)))
        # The rows are not outputs, and an activation of the head may hide an infinity of theirs.
        self.unseen_states = tuple(range(len(self.state_specs)))
        self.batch_invariant = batch_invariant

    def step(self, x: Tensor, state: State, slots: Tensor | None = None) -> tuple[Tensor, State]:
        """One row of each session, behind those of its context."""
        rows = torch.cat((*gather(state, slots), x[:, None]), dim=1)
        y = self._product(rows[:, :: self._taps.step])
        return y, (rows[:, 1:].contiguous(),) if state else ()

    def sequence(self, rows: Tensor, sizes: Sequence[int], state: State) -> tuple[Tensor, State]:
        """All rows at once. The context stands in front of them, as rows of earlier times."""
        if not state:
            return self._product(rows[:, None]), ()
        (context,) = state
        running = sizes[0]
        before = context[:running].transpose(0, 1).flatten(0, 1)
        joined = torch.cat((before, rows))
        starts, sequences = _times([running] * self._reach + list(sizes), rows.device)
        times = torch.arange(len(starts) - self._reach, device=rows.device).repeat_interleave(
            torch.tensor(list(sizes), device=rows.device)
        )
        read = torch.stack([starts[times + tap] for tap in self._taps], dim=1)
        y = self._product(joined[read + sequences[len(before) :, None]])
        lengths = torch.bincount(sequences, minlength=running) - self._reach
        last = lengths[:, None] + torch.arange(self._reach, device=rows.device)
        after = joined[starts[last] + torch.arange(running, device=rows.device)[:, None]]
        return y, (torch.cat((after, context[running:])),)


def window_product(kernel: Kernel, groups: int, weight: Tensor, bias: Tensor | None) -> Product:
    """A product of windows with the weight of nn.Conv1d, [channels, inputs / groups, kernel].

    Groups of one input channel each are sums of products, number by number. Others are matrix products.
    """
    if groups > 1 and weight.shape[1] == 1:
        return partial(_depthwise, weight.movedim(-1, 0).squeeze(-1).float(), bias, weight.dtype)
    each = weight.movedim(-1, 1).flatten(1).contiguous().chunk(groups)
    biases = [None] * groups if bias is None else bias.chunk(groups)
    products = [kernel.linear(*one) for one in zip(each, biases, strict=True)]
    return partial(_grouped, products)


def row_convolution(part: RowConvPart, product: Product) -> Callable[[Tensor], Tensor]:
    """A convolution inside rows float32[rows, inputs × length] → float32[rows, channels × places]."""
    return partial(_inside, part, product)


def _times(sizes: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Where each time's packed rows begin, int64[times], and each row's sequence, int64[rows]."""
    counts = torch.tensor(sizes, device=device)
    starts = counts.cumsum(0) - counts
    sequences = torch.arange(sum(sizes), device=device) - starts.repeat_interleave(counts)
    return starts, sequences


def _grouped(products: Sequence[Product], windows: Tensor) -> Tensor:
    parts = windows.chunk(len(products), dim=-1)
    found = [run(part.flatten(-2).contiguous()) for run, part in zip(products, parts, strict=True)]
    return found[0] if len(found) == 1 else torch.cat(found, dim=-1)


def _depthwise(
    weight: Tensor, bias: Tensor | None, operand: torch.dtype, windows: Tensor
) -> Tensor:
    """Tap after tap, so that a row's bits do not depend on the others. Weight: [kernel, channels]."""
    many = weight.shape[1] // windows.shape[-1]
    windows = windows.to(operand).float().repeat_interleave(many, dim=-1)
    y = windows[..., 0, :] * weight[0]
    for tap in range(1, len(weight)):
        y = y + windows[..., tap, :] * weight[tap]
    return y if bias is None else y + bias


def _inside(part: RowConvPart, product: Product, rows: Tensor) -> Tensor:
    channels = rows.view(len(rows), part.inputs, -1)
    padded = F.pad(channels, (part.padding, part.padding))
    windows = padded.unfold(-1, part.reach + 1, part.stride)[..., :: part.dilation]
    return product(windows.permute(0, 2, 3, 1)).transpose(1, 2).flatten(1)
