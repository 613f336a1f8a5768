"""What the parts of one engine share."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from .errors import CarouselError
from .futures import failed
from .limits import EngineLimits
from .metering import EngineMetrics
from .quotas import Quotas
from .replicas import Replica
from .store import StorePort, StoreRequest
from .types import Durability, ModelView


@dataclass(frozen=True, slots=True)
class Context:
    """One engine's model, limits and surroundings.

    Attributes:
        model: what clients may know of the model.
        limits: the limits of the engine.
        quotas: the limits of each tenant, counted over the whole server.
        metrics: the model's metrics.
        store: `NoStore` where sessions die with the process.
        clock: the monotonic clock, in seconds.
        strict: a row's bits may not depend on the other rows of its batch.
    """

    model: ModelView
    limits: EngineLimits
    quotas: Quotas
    metrics: EngineMetrics
    store: StorePort
    clock: Callable[[], float]
    strict: bool

    @property
    def share(self) -> float:
        """The part of something bounded that one tenant may take; see `Shares`."""
        return self.quotas.limits.tenant_share


class NoStore:
    """Stands for the store of a server that has none: it promises nothing, and its leases never end."""

    levels: frozenset[Durability] = frozenset()
    lease_until_s = math.inf
    lease_lost = 0
    fault = ""
    replicas: Sequence[Replica] = ()

    def now_unix_s(self) -> float:
        """The time of this machine."""
        return time.time()

    def later(self, _delay_s: float) -> Future[None]:
        """Fails as `submit` does."""
        return failed(CarouselError("STORE_UNAVAILABLE", "this server has no store"))

    def submit(self, _request: StoreRequest) -> None:
        """Refuses every request as STORE_UNAVAILABLE."""
        raise CarouselError("STORE_UNAVAILABLE", "this server has no store")
