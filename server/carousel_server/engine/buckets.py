"""Padded batch sizes."""

from __future__ import annotations

import bisect

# Matrix products take other paths, with other roundings, for one to three rows than for more. Padding
# to four makes a row's bits the same at nearly all sizes at little cost; `strict` makes it certain.
_SMALLEST = 4


class Buckets:
    """The few sizes that batches run at: powers of two, with the midpoints between from 16 on, so
    padding costs at most half a batch and mostly less. In strict mode there is one, so that no row's
    bits depend on who else is there. If they never do (`invariant`), a batch is padded to nothing.
    """

    def __init__(self, max_batch: int, *, strict: bool, invariant: bool = False) -> None:
        if invariant:
            self.sizes = list(range(1, max_batch + 1))
            return
        if strict:
            self.sizes = [max_batch]
            return
        sizes, size = {max_batch}, _SMALLEST
        while size < max_batch:
            sizes |= {size, min(size + size // 2, max_batch)} if size >= 16 else {size}
            size *= 2
        self.sizes = sorted(sizes)

    def of(self, rows: int) -> int:
        """The smallest size that holds `rows`."""
        return self.sizes[bisect.bisect_left(self.sizes, rows)]
