"""The slab: the state tensors of one model on one device, a row per slot."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from carousel_models import StateSpec
from carousel_models.kernels import Kernel, Reference
from carousel_server.core.types import Int64s


class Slab:
    """Preallocated state tensors of shape [slots + 1 + initial states, *state shape].

    After the sessions' rows comes the scratch row: padding rows of a batch read and write it, so its content
    means nothing. Then come the initial rows. They hold the states that a session can begin with, the default
    first. A step that starts from there reads such a row in place of its session's. Nothing writes them. Used
    on the engine's thread only.
    """

    def __init__(
        self,
        specs: Sequence[StateSpec],
        slots: int,
        device: torch.device,
        kernel: Kernel | None = None,
        initials: Sequence[Sequence[Tensor]] = (),
    ) -> None:
        """`initials` are states of one session, a tensor [*shape] for each spec. None is one of zeros."""
        self.device = device
        self.scratch_row = slots
        self.specs = tuple(specs)
        rows = slots + 1 + max(1, len(initials))
        # All rows, to be read where they are.
        self.tensors = tuple(
            torch.zeros((rows, *spec.shape), dtype=spec.dtype, device=device) for spec in specs
        )
        for index, state in enumerate(initials):
            for tensor, value in zip(self.tensors, state, strict=True):
                tensor[self.initial_row(index)].copy_(value)
        # Writes rows int64[n] back, with a tensor [n, …] for each state. Rows must not repeat, save for the
        # scratch row.
        self.scatter = (kernel or Reference()).scatter_into(self.tensors)

    @property
    def state_bytes(self) -> int:
        """Bytes of all tensors, scratch and initial rows included."""
        return sum(t.numel() * t.element_size() for t in self.tensors)

    def initial_row(self, index: int) -> int:
        """The row of an initial state, by its place in the manifest. 0 is the default."""
        return self.scratch_row + 1 + index

    def gather(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Copies of the rows: one tensor [len(rows), *shape] for each state. `rows`: int64[n]."""
        return tuple(t.index_select(0, rows) for t in self.tensors)

    def initial_rows(self, indices: Int64s) -> Int64s:
        """The same for many; int64[n]."""
        return self.scratch_row + 1 + indices

    def begin(self, row: int, initial: int = 0) -> None:
        """Sets one row to an initial state, by its place in the manifest."""
        for tensor in self.tensors:
            tensor[row].copy_(tensor[self.initial_row(initial)])

    def take(self, rows: Tensor) -> dict[str, np.ndarray]:
        """Many rows as host arrays [n, …] by state name, in one copy. `rows`: int64[n]."""
        return {
            spec.name: _bits(tensor).cpu().numpy()
            for spec, tensor in zip(self.specs, self.gather(rows), strict=True)
        }

    def restore(self, row: int, arrays: dict[str, np.ndarray]) -> None:
        """Sets states of one row from such arrays; names, shapes and dtypes have been checked."""
        for spec, tensor in zip(self.specs, self.tensors, strict=True):
            if spec.name not in arrays:
                continue
            _bits(tensor[row]).copy_(torch.from_numpy(arrays[spec.name].copy()))

    def layout(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape and NumPy dtype of each of those arrays."""
        first = self.take(torch.zeros(1, dtype=torch.int64, device=self.device))
        return {name: (array.shape[1:], array.dtype.str) for name, array in first.items()}


def _bits(tensor: Tensor) -> Tensor:
    """A view that NumPy has a type for."""
    return tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor
