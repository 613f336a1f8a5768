"""The interface of programs. No torch at import."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Dimension = int | str | None
"""A length, the name of a length that may vary, or None for one that is not known."""

Call = Callable[[Sequence["Tensor"]], Sequence["Tensor"]]
"""From a program's inputs to its outputs, in the order in which they were bound."""


class Port(NamedTuple):
    """An input or an output of a program, as its file declares it.

    Attributes:
        name: the file's name for it. Formats without names of outputs count them: "0", "1" and so on.
        dtype: torch's name of its type.
        dims: its dimensions. None if even their number is not known.
        scalar: True for a plain number, which only a constant can be.
    """

    name: str
    dtype: str
    dims: tuple[Dimension, ...] | None
    scalar: bool = False

    def __str__(self) -> str:
        if self.scalar:
            return f"{self.name} ({self.dtype})"
        dims = (
            "…" if self.dims is None else ", ".join("?" if d is None else str(d) for d in self.dims)
        )
        return f"{self.name} {self.dtype}[{dims}]"


class Signature(NamedTuple):
    """The inputs and outputs of a program. Those of outputs may be known after a run only."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


class Program(Protocol):
    """A loaded program. It has no state, and any thread may run it."""

    @property
    def signature(self) -> Signature:
        """What the file declares."""

    @property
    def device(self) -> torch.device:
        """Where its tensors must be."""

    @property
    def shared(self) -> Mapping[str, Tensor]:
        """The tensors that all calls share, as far as they can be seen. No call may change them."""

    @property
    def fresh(self) -> bool:
        """True if it changes no input, and its outputs are memory of no other tensor."""

    def bind(
        self, inputs: Sequence[str], outputs: Sequence[str], constants: Mapping[str, Tensor]
    ) -> Call:
        """The program as a function of some inputs, which gives some outputs.

        The other inputs are the constants. Tensors are contiguous, of the program's types, and on `device`.
        """
