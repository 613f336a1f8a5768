"""From declarations to series, and from series to a scrape. Tenants' series have a bounded number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Generic, TypeVar

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from carousel_server.core.quotas import Quota

from .declarations import METRICS, Declaration, Kind, Owner
from .series import Histogram, Scalar

Series = TypeVar("Series", Scalar, Histogram)


class Family(Generic[Series]):
    """All series of one declaration, by label values. Series are never removed."""

    def __init__(self, declaration: Declaration, make: Callable[[], Series]) -> None:
        self.declaration = declaration
        self._make: Callable[[], Series] = make
        self._series: dict[tuple[str, ...], Series] = {}

    def series(self, *values: str) -> Series:
        """The series of these label values, in the declared order. It is made at the first request."""
        assert len(values) == len(self.declaration.labels), self.declaration.name
        found = self._series.get(values)
        return self._series.setdefault(values, self._make()) if found is None else found

    def items(self) -> list[tuple[tuple[str, ...], Series]]:
        """A copy of all series, so that others can be added during a scrape."""
        return list(self._series.items())


def _scalar_metric(family: Family[Scalar]) -> Metric:
    told = family.declaration
    kind = CounterMetricFamily if told.kind is Kind.COUNTER else GaugeMetricFamily
    metric = kind(told.base_name, told.help, labels=told.labels, unit=told.exposed_unit)
    for values, series in family.items():
        metric.add_metric(values, series.value)
    return metric


def _histogram_metric(family: Family[Histogram]) -> Metric:
    told = family.declaration
    metric = HistogramMetricFamily(told.name, told.help, labels=told.labels, unit=told.exposed_unit)
    bounds = [*map(floatToGoString, told.buckets), "+Inf"]
    for values, series in family.items():
        counts, total = series.snapshot()
        metric.add_metric(
            values, list(zip(bounds, map(float, counts), strict=True)), sum_value=total
        )
    return metric


class Families(Collector):
    """All families that this server writes itself, in the registry's order."""

    def __init__(self, declarations: Mapping[str, Declaration] = METRICS) -> None:
        own = [told for told in declarations.values() if told.owner is not Owner.PROCESS]
        self._order = [told.name for told in own]
        self._scalars = {
            told.name: Family(told, Scalar) for told in own if told.kind is not Kind.HISTOGRAM
        }
        self._histograms = {
            told.name: _histograms(told) for told in own if told.kind is Kind.HISTOGRAM
        }

    def scalar(self, name: str, *values: str) -> Scalar:
        """A series of a counter or gauge."""
        return self._scalars[name].series(*values)

    def histogram(self, name: str, *values: str) -> Histogram:
        """A series of a histogram."""
        return self._histograms[name].series(*values)

    def scalars(self, name: str) -> list[tuple[tuple[str, ...], Scalar]]:
        """All series of a counter or gauge, with their label values."""
        return self._scalars[name].items()

    def histograms(self, name: str) -> list[tuple[tuple[str, ...], Histogram]]:
        """All series of a histogram, with their label values."""
        return self._histograms[name].items()

    def collect(self) -> Iterator[Metric]:
        """The families for a scrape."""
        for name in self._order:
            if name in self._scalars:
                yield _scalar_metric(self._scalars[name])
            else:
                yield _histogram_metric(self._histograms[name])


def _histograms(told: Declaration) -> Family[Histogram]:
    return Family(told, lambda: Histogram(told.buckets))


OTHER = "other"
"""Label of all tenants that are not among the first configured ones."""

MOST_NAMES = 32
"""Number of tenants with series of their own."""


class TenantMetrics:
    """Series by tenant. The first 32 configured tenants have their own. The others share one."""

    def __init__(self, families: Families, tenants: Iterable[str]) -> None:
        self._families = families
        self._names = frozenset(tuple(tenants)[:MOST_NAMES])
        for tenant in self.labels():
            for quota in Quota:
                families.scalar("carousel_tenant_refusals_total", tenant, quota)

    def label(self, tenant: str) -> str:
        """The label value of a tenant."""
        return tenant if tenant in self._names else OTHER

    def labels(self) -> tuple[str, ...]:
        """Every label value."""
        return (*sorted(self._names), OTHER)

    def refused(self, tenant: str, quota: str, count: int) -> None:
        """Counts calls, messages or steps of a tenant that were refused by a quota."""
        name = self.label(tenant)
        self._families.scalar("carousel_tenant_refusals_total", name, quota).add(count)
