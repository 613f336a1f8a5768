"""Groups of rows that can be told the same in one call."""

from __future__ import annotations

import numpy as np

from carousel_server.core.types import Int64s


def alike(*columns: Int64s) -> list[Int64s]:
    """Positions int64[k] of the entries that are the same in all columns, one array a group.

    Args:
        columns: int64[n] each. Within a group, positions ascend.
    """
    if not len(columns[0]):
        return []
    order = np.lexsort(columns)
    differs = np.zeros(len(order) - 1, bool)
    for column in columns:
        differs |= np.diff(column[order]) != 0
    return np.split(order, np.flatnonzero(differs) + 1)
