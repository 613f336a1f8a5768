"""Which tenants have sessions on the rows of one engine, as small numbers for arrays."""

from __future__ import annotations

import heapq
from collections.abc import Mapping


class Tenancy:
    """Numbers for tenants, and how many rows each has. Used on the engine's thread only.

    A number is free again when its tenant's last row is, so numbers stay below the number of slots.
    """

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._names: dict[int, str] = {}
        self._rows: dict[str, int] = {}
        self._free: list[int] = []

    @property
    def several(self) -> bool:
        """True while more than one tenant has rows."""
        return len(self._numbers) > 1

    @property
    def rows(self) -> Mapping[str, int]:
        """Rows of each tenant that has any."""
        return self._rows

    def enter(self, tenant: str) -> int:
        """Counts one more row of a tenant; returns its number."""
        number = self._numbers.get(tenant)
        if number is None:
            number = heapq.heappop(self._free) if self._free else len(self._numbers)
            self._numbers[tenant] = number
            self._names[number] = tenant
            self._rows[tenant] = 0
        self._rows[tenant] += 1
        return number

    def leave(self, tenant: str) -> None:
        """Counts one row less."""
        self._rows[tenant] -= 1
        if not self._rows[tenant]:
            del self._rows[tenant]
            number = self._numbers.pop(tenant)
            del self._names[number]
            heapq.heappush(self._free, number)

    def name(self, number: int) -> str:
        """The tenant of a number."""
        return self._names[number]

    def number(self, tenant: str) -> int:
        """The number of a tenant, or -1 if it has no row."""
        return self._numbers.get(tenant, -1)
