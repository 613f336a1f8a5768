"""What is told of each tenant, with a bounded number of names."""

from __future__ import annotations

from collections.abc import Iterable

from carousel_server.core.quotas import Quota

from .families import Families

OTHER = "other"
"""Stands for every tenant that is not among the first ones configured."""

MOST_NAMES = 32
"""Tenants with series of their own."""


class TenantMetrics:
    """Series by tenant. The first 32 tenants that are configured have their own; the others share one."""

    def __init__(self, families: Families, tenants: Iterable[str]) -> None:
        self._families = families
        self._names = frozenset(tuple(tenants)[:MOST_NAMES])
        for tenant in self.labels():
            for quota in Quota:
                families.scalar("carousel_tenant_refusals_total", tenant, quota)

    def label(self, tenant: str) -> str:
        """The label value that stands for a tenant."""
        return tenant if tenant in self._names else OTHER

    def labels(self) -> tuple[str, ...]:
        """Every label value."""
        return (*sorted(self._names), OTHER)

    def refused(self, tenant: str, quota: str, count: int) -> None:
        """Calls, messages or steps of a tenant were refused because it has reached a quota."""
        name = self.label(tenant)
        self._families.scalar("carousel_tenant_refusals_total", name, quota).add(count)
