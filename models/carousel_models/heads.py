"""The manifest of a head: what computes an output row from a row of the stack. No torch.

Each head is a chain of `parts`. `places` are the numbers of these in the names of tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from .parts import Part, Size
from .row_parts import MAX_PARTS, Activation, ActivationPart, LinearPart, RowPart


class NoHead(Part):
    """The stack's output is the model's output."""

    kind: Literal["none"] = "none"

    @property
    def parts(self) -> tuple[RowPart, ...]:
        """None."""
        return ()

    @property
    def places(self) -> Sequence[int]:
        """None."""
        return ()


class LinearHead(Part):
    """One linear layer."""

    kind: Literal["linear"] = "linear"
    width: Size
    bias: bool = True

    @property
    def parts(self) -> tuple[RowPart, ...]:
        """The linear layer."""
        return (LinearPart(width=self.width, bias=self.bias),)

    @property
    def places(self) -> Sequence[int]:
        """0."""
        return (0,)


class MlpHead(Part):
    """Linear layers of sizes `hidden`, each followed by `activation`, then one of `width`."""

    kind: Literal["mlp"] = "mlp"
    hidden: Annotated[tuple[Size, ...], Field(min_length=1, max_length=MAX_PARTS)]
    width: Size
    activation: Activation = "relu"
    bias: bool = True

    @property
    def parts(self) -> tuple[RowPart, ...]:
        """The linear layers and the activations between them."""
        parts: list[RowPart] = []
        for width in self.hidden:
            parts.append(LinearPart(width=width, bias=self.bias))
            parts.append(ActivationPart(function=self.activation))
        return (*parts, LinearPart(width=self.width, bias=self.bias))

    @property
    def places(self) -> Sequence[int]:
        """Linear layers are counted alone."""
        return [number // 2 for number in range(2 * len(self.hidden) + 1)]


class ChainHead(Part):
    """Any parts, one after the other."""

    kind: Literal["chain"] = "chain"
    parts: Annotated[tuple[RowPart, ...], Field(min_length=1, max_length=MAX_PARTS)]

    @property
    def places(self) -> Sequence[int]:
        """All parts are counted."""
        return range(len(self.parts))


Head = Annotated[NoHead | LinearHead | MlpHead | ChainHead, Field(discriminator="kind")]


def head_of(parts: Sequence[RowPart]) -> Head:
    """The simplest head with these parts."""
    if not parts:
        return NoHead()
    linears, between = parts[::2], parts[1::2]
    plain = all(isinstance(part, LinearPart) for part in linears) and len(parts) % 2
    if plain and len({part.bias for part in linears if isinstance(part, LinearPart)}) == 1:
        *hidden, last = [part for part in linears if isinstance(part, LinearPart)]
        if not hidden:
            return LinearHead(width=last.width, bias=last.bias)
        functions = {p.function for p in between if isinstance(p, ActivationPart) and not p.options}
        same = len(functions) == 1 and all(
            isinstance(p, ActivationPart) and not p.options for p in between
        )
        if same:
            return MlpHead(
                hidden=tuple(part.width for part in hidden),
                width=last.width,
                activation=functions.pop(),
                bias=last.bias,
            )
    return ChainHead(parts=tuple(parts))
