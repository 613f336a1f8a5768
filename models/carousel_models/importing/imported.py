"""What a reader returns. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from carousel_models.errors import PackageError

if TYPE_CHECKING:
    from torch import Tensor

    from carousel_models.agreement import Reference


class NoOriginalError(PackageError):
    """The original model cannot be run here. The message says why."""


def weights_alone() -> NoReturn:
    """The `original` of a file of weights.

    Raises:
        NoOriginalError: always.
    """
    raise NoOriginalError("the file holds weights alone, and no model that can be run")


@dataclass(frozen=True, slots=True)
class Imported:
    """A model that was read from a file of another library.

    Attributes:
        parts: fields of the manifest, such as input, stack, head and output, as `from_torch.convert` gives
            them. The name is not among them.
        tensors: all tensors of the model, named as in `tensors.py`.
        notes: for the user, one sentence each: what was left out, and what differs from the original's use.
        original: makes the original, as `save(reference=)` takes it. It gives rows before `transform` and
            `select`. It raises NoOriginalError where the original cannot be run. It is called with `check`
            only.
        files: the files of programs, by their names in the package.
    """

    parts: dict[str, Any]
    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = ()
    original: Callable[[], Reference] = weights_alone
    files: Mapping[str, bytes] = field(default_factory=dict)
