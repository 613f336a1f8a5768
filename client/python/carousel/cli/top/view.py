"""The numbers that `carousel top` shows, from two reads of a server's metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from carousel.cli.exposition import Scrape


@dataclass(frozen=True, slots=True)
class ModelView:
    """One model. Rates are per second. Quantiles are upper bounds of buckets, in seconds, None without any.

    Attributes:
        steps, tokens, infer_steps: rates of steps in ticks, of generated tokens, of steps of whole sequences.
        sessions, parked: sessions on the device, and in the store only.
        queue: steps accepted and not yet run.
        batch: mean number of sessions in a tick. None without a tick.
        slots: slots that the model has.
        undurable: most steps of a session that the store has not confirmed.
    """

    model: str
    steps: float
    tokens: float
    infer_steps: float
    sessions: int
    parked: int
    slots: int
    queue: int
    batch: float | None
    step_p50_s: float | None
    step_p99_s: float | None
    tick_p50_s: float | None
    tick_p99_s: float | None
    undurable: int
    durable_p99_s: float | None


@dataclass(frozen=True, slots=True)
class TenantView:
    """One tenant: its steps a second, and its sessions on the device."""

    tenant: str
    steps: float
    sessions: int


@dataclass(frozen=True, slots=True)
class ServerView:
    """One server. Rates are per second, over `seconds`.

    Attributes:
        restarted: it was started again between the two reads, so the rates count from its start.
        errors: answers with an error, by reason of the error registry, of those that came.
        cores: processor time a second.
        replicas: live replicas of its store. 0 without a store.
        store_sessions: sessions in the store. None without a store.
    """

    seconds: float
    version: str
    device: str
    up_s: float
    restarted: bool
    memory_bytes: int
    cores: float
    streams: int
    replicas: int
    errors: dict[str, float]
    store_sessions: int | None
    store_p99_s: float | None
    loop_p99_s: float | None
    models: Sequence[ModelView]
    tenants: Sequence[TenantView]


_STARTED = "process_start_time_seconds"


def between(before: Scrape, now: Scrape, seconds: float, now_unix_s: float) -> ServerView:
    """The numbers between two reads, `seconds` apart, of a server with a clock as here."""
    restarted = before.total(_STARTED) != now.total(_STARTED)
    change = _Change(Scrape("") if restarted else before, now, seconds)
    build = now.labels("carousel_build_info")
    has_store = bool(now.names("carousel_store_requests_total", "kind"))
    started_s = now.total(_STARTED)
    return ServerView(
        seconds=seconds,
        version=build.get("version", ""),
        device=build.get("device", ""),
        up_s=max(now_unix_s - started_s, 0.0) if started_s else 0.0,
        restarted=restarted,
        memory_bytes=int(now.total("process_resident_memory_bytes")),
        cores=change.rate("process_cpu_seconds_total"),
        streams=int(now.total("carousel_attach_streams")),
        replicas=int(now.total("carousel_replicas")),
        errors=_errors(change),
        store_sessions=int(now.total("carousel_store_sessions")) if has_store else None,
        store_p99_s=change.quantile("carousel_store_request_seconds", 0.99),
        loop_p99_s=change.quantile("carousel_event_loop_lag_seconds", 0.99),
        models=[_model(change, one) for one in now.names("carousel_slots_capacity", "model")],
        tenants=_tenants(change),
    )


class _Change:
    """Two reads, and what changed between them."""

    def __init__(self, before: Scrape, now: Scrape, seconds: float) -> None:
        self.before, self.now, self.seconds = before, now, seconds

    def rate(self, name: str, **labels: str) -> float:
        """Growth of a counter in a second."""
        return self.grown(name, **labels) / self.seconds

    def grown(self, name: str, **labels: str) -> float:
        return max(self.now.total(name, **labels) - self.before.total(name, **labels), 0.0)

    def quantile(self, name: str, fraction: float, **labels: str) -> float | None:
        return self.now.quantile(name, fraction, self.before, **labels)


def _model(change: _Change, model: str) -> ModelView:
    now = change.now
    ticks = change.grown("carousel_batch_size_count", model=model)
    return ModelView(
        model=model,
        steps=change.rate("carousel_steps_total", model=model),
        tokens=change.rate("carousel_tokens_total", model=model),
        infer_steps=change.rate("carousel_infer_steps_total", model=model),
        sessions=int(now.total("carousel_slots_used", model=model)),
        parked=int(now.total("carousel_sessions", model=model, phase="parked")),
        slots=int(now.total("carousel_slots_capacity", model=model)),
        queue=int(now.total("carousel_queue_steps", model=model)),
        batch=change.grown("carousel_batch_size_sum", model=model) / ticks if ticks else None,
        step_p50_s=change.quantile("carousel_step_seconds", 0.5, model=model),
        step_p99_s=change.quantile("carousel_step_seconds", 0.99, model=model),
        tick_p50_s=change.quantile("carousel_tick_seconds", 0.5, model=model),
        tick_p99_s=change.quantile("carousel_tick_seconds", 0.99, model=model),
        undurable=int(now.total("carousel_undurable_steps", model=model)),
        durable_p99_s=change.quantile("carousel_durable_lag_seconds", 0.99, model=model),
    )


def _errors(change: _Change) -> dict[str, float]:
    name = "carousel_refusals_total"
    rates = {one: change.rate(name, reason=one) for one in change.now.names(name, "reason")}
    return {reason: rate for reason, rate in rates.items() if rate}


def _tenants(change: _Change) -> list[TenantView]:
    """Tenants with sessions or steps, the busiest first."""
    steps, sessions = "carousel_tenant_steps_total", "carousel_tenant_sessions"
    names = {*change.now.names(steps, "tenant"), *change.now.names(sessions, "tenant")}
    views = [
        TenantView(one, change.rate(steps, tenant=one), int(change.now.total(sessions, tenant=one)))
        for one in names
    ]
    busy = [view for view in views if view.steps or view.sessions]
    return sorted(busy, key=lambda view: (-view.steps, -view.sessions, view.tenant))
