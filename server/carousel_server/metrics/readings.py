"""The few series that the console shows, as numbers."""

from __future__ import annotations

import time
from collections import defaultdict

from carousel_server.core.metering import Reading, Readings

from .families import OTHER, Families
from .series import Histogram

SCALARS = (
    *("carousel_steps_total", "carousel_tokens_total", "carousel_ticks_total"),
    *("carousel_sessions", "carousel_sessions_generating", "carousel_queue_steps"),
    "carousel_slots_capacity",
)
HISTOGRAMS = ("carousel_step_seconds", "carousel_tick_seconds")
TENANTS = {
    "carousel_tenant_steps_total": "carousel_steps_total",
    "carousel_tenant_sessions": "carousel_sessions",
}
"""Series by tenant, and the series of the whole server that they are a part of."""


def readings(families: Families) -> Readings:
    """The numbers now. Any thread may call it."""
    models: defaultdict[str, dict[str, Reading]] = defaultdict(dict)
    for name in SCALARS:
        for (model, *_), series in families.scalars(name):
            models[model][name] = series.value
    for name in HISTOGRAMS:
        for (model,), histogram in families.histograms(name):
            models[model][name] = _buckets(histogram)
    tenants: defaultdict[str, defaultdict[str, dict[str, Reading]]]
    tenants = defaultdict(lambda: defaultdict(dict))
    for name, whole in TENANTS.items():
        for (model, tenant), series in families.scalars(name):
            if tenant != OTHER:  # several tenants share these series
                tenants[tenant][model][whole] = series.value
    own = {tenant: dict(by_model) for tenant, by_model in tenants.items()}
    return Readings(time.monotonic(), dict(models), own)


def _buckets(histogram: Histogram) -> Reading:
    counts, total = histogram.snapshot()
    return {"bounds": list(histogram.bounds), "counts": counts.tolist(), "sum": total}
