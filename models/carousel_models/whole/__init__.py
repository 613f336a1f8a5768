"""Whole modules as packages: a module is run once, and its operations become the parts of a manifest.

`recording` runs the module and writes its operations as a torch.fx graph. `reading` says what each value is,
in terms of rows of the input (`values`). `chains` makes a chain of parts of that, and `assembly` a manifest.
What has no place in a manifest is named, and `skeleton` writes a custom module to go on from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

__all__ = ["own_rows"]


def own_rows(
    model: nn.Module, features: int | None = None, example: Any = None
) -> Callable[[Tensor], Tensor]:
    """A module's rows as `save(reference=)` takes them, whatever form the module gives them.

    Args:
        model: a whole module. Its result may have the time first, flat rows, or the last step only.
        features: the input's width, where it does not follow from the module.
        example: arguments of one call, where they cannot be found out.

    Raises:
        PackageError: the module's result does not have the form of rows.
    """
    from .module import rows_of

    return rows_of(model, features, example).raw
