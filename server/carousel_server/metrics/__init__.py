"""All metrics of a Carousel server, and the endpoint that serves them."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

from carousel_server.core.metering import EngineMetrics, StoreMetrics, WireMetrics
from carousel_server.core.types import ModelView

from .declarations import METRICS, Declaration, Kind, Owner
from .endpoint import NO_PROBES, Check, MetricsServer, Probes
from .engine import ModelMetrics
from .families import Families, TenantMetrics
from .store import KeepingMetrics
from .wire import CallMetrics


class Metrics:
    """All metrics of one server, in a registry of their own.

    Args:
        build: labels of `carousel_build_info`: `version`, `torch`, `device`. The default is "".
        tenants: the configured tenants. The first 32 have series of their own.
    """

    def __init__(self, build: Mapping[str, str] | None = None, tenants: Iterable[str] = ()) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self._families = Families()
        labels = {"python": platform.python_version(), **(build or {})}
        names = METRICS["carousel_build_info"].labels
        assert labels.keys() <= set(names), f"build has only {names}"
        told = (labels.get(name, "") for name in names)
        self._families.scalar("carousel_build_info", *told).set(1)
        self._tenants = TenantMetrics(self._families, tenants)
        self._refused = self._families.scalar("carousel_models_refused")
        self._store = KeepingMetrics(self._families)
        self._accepting = self._families.scalar("carousel_replicas", "true")
        self._not_accepting = self._families.scalar("carousel_replicas", "false")
        self._rebalances = self._families.scalar("carousel_rebalances_total")
        self._replaced = self._families.scalar("carousel_front_end_restarts_total")
        self.registry.register(self._families)
        ProcessCollector(registry=self.registry)

    def engine(self, model: ModelView, slots: int) -> EngineMetrics:
        """The metrics of one model whose slab has `slots` slots."""
        return ModelMetrics(self._families, model, slots, self._tenants)

    def store(self) -> StoreMetrics:
        """The metrics of the store. All are zero where there is none."""
        return self._store

    def wire(self) -> WireMetrics:
        """The metrics of the calls."""
        return CallMetrics(self._families, self._tenants)

    def front_end_replaced(self) -> None:
        """Counts a front end that died and is replaced."""
        self._replaced.add()

    def replicas(self, accepting: int, others: int) -> None:
        """Sets the numbers of live replicas that accept sessions, and of the others."""
        self._accepting.set(accepting)
        self._not_accepting.set(others)

    def rebalance_begun(self) -> None:
        """Counts a rebalance."""
        self._rebalances.add()

    def models_refused(self, packages: int) -> None:
        """Sets the number of packages that could not be loaded."""
        self._refused.set(packages)

    def serve(self, host: str, port: int, probes: Probes = NO_PROBES) -> MetricsServer:
        """Starts the endpoint. See MetricsServer."""
        return MetricsServer(self.registry, host, port, probes)

    def expose(self) -> str:
        """The answer to a scrape now, in the text format."""
        return generate_latest(self.registry).decode()


__all__ = ["METRICS", "Check", "Declaration", "Kind", "Metrics", "MetricsServer", "Owner", "Probes"]
