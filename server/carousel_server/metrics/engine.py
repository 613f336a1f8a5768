"""The metrics of one model's engine."""

from __future__ import annotations

from collections.abc import Mapping

from typing_extensions import override

from carousel_server.core.metering import EngineMetrics
from carousel_server.core.moves import Why
from carousel_server.core.types import Float64s, ModelView, Phase

from .families import OTHER, Families, TenantMetrics

ENDINGS = ("closed", "expired")
LOSSES = ("DATA_LOSS", "SNAPSHOT_DAMAGED")
PLACES = ("owner", "elsewhere")
MOVES = ("parked", "resumed", "revoked")
DEVICE_TIER = "device"


class ModelMetrics(EngineMetrics):
    """The metrics of one model. Every series exists from the start, at zero.

    Each call takes a few microseconds, for any size of the batch.
    """

    def __init__(
        self, families: Families, model: ModelView, slots: int, tenants: TenantMetrics
    ) -> None:
        name = model.name
        # -- by tenant
        self._tenant_steps = {
            label: families.scalar("carousel_tenant_steps_total", name, label)
            for label in tenants.labels()
        }
        self._tenant_sessions = {
            label: families.scalar("carousel_tenant_sessions", name, label)
            for label in tenants.labels()
        }
        self._state_bytes_per_session = model.state_bytes
        # -- throughput and batching, written once a tick
        self._steps = families.scalar("carousel_steps_total", name)
        self._ticks = families.scalar("carousel_ticks_total", name)
        self._tick_s = families.histogram("carousel_tick_seconds", name)
        self._batch_size = families.histogram("carousel_batch_size", name)
        self._bucket_rows = families.scalar("carousel_bucket_rows_total", name)
        self._not_finite = families.scalar("carousel_steps_not_finite_total", name)
        # -- latencies of deliveries
        self._latency_s = families.histogram("carousel_step_seconds", name)
        self._queue_s = families.histogram("carousel_step_queue_seconds", name)
        self._tokens = families.scalar("carousel_tokens_total", name)
        self._first_token_s = families.histogram("carousel_first_token_seconds", name)
        self._inter_token_s = families.histogram("carousel_inter_token_seconds", name)
        # -- whole sequences
        self._sequences = families.scalar("carousel_infer_sequences_total", name)
        self._sequence_steps = families.scalar("carousel_infer_steps_total", name)
        self._infer_s = families.histogram("carousel_infer_batch_seconds", name)
        # -- opened and ended sessions
        self._opened = families.scalar("carousel_sessions_opened_total", name)
        self._ended = {
            how: families.scalar("carousel_sessions_ended_total", name, how) for how in ENDINGS
        }
        # -- the store
        self._moved = {
            how: families.scalar("carousel_sessions_moved_total", name, how) for how in MOVES
        }
        self._handed_over = {
            why: families.scalar("carousel_sessions_handed_over_total", name, why, "out")
            for why in Why
        }
        self._received = families.scalar(
            "carousel_sessions_handed_over_total", name, Why.ASKED, "in"
        )
        self._hand_over_s = families.histogram("carousel_hand_over_seconds", name)
        self._at_owner, self._elsewhere = (
            families.scalar("carousel_placed_steps_total", name, at) for at in PLACES
        )
        self._misplaced = families.scalar("carousel_sessions_misplaced", name)
        self._data_losses = {
            reason: families.scalar("carousel_data_losses_total", name, reason) for reason in LOSSES
        }
        self._durable_lag_s = families.histogram("carousel_durable_lag_seconds", name)
        self._undurable_steps = families.scalar("carousel_undurable_steps", name)
        # -- levels
        self._resident = families.scalar("carousel_sessions", name, Phase.RESIDENT.name.lower())
        self._generating = families.scalar("carousel_sessions_generating", name)
        self._slots_used = families.scalar("carousel_slots_used", name)
        self._state_bytes = families.scalar("carousel_state_bytes", name, DEVICE_TIER)
        self._queue_steps = families.scalar("carousel_queue_steps", name)
        self._inbox = families.scalar("carousel_inbox_commands", name)
        families.scalar("carousel_slots_capacity", name).set(slots)
        identity = (model.fingerprint, model.cell, str(model.layers), str(model.hidden))
        families.scalar("carousel_model_info", name, *identity, model.compute_dtype).set(1)

    @override
    def tick(self, rows: int, bucket: int, steps: Mapping[str, int], seconds: float) -> None:
        self._ticks.add()
        self._steps.add(sum(steps.values()))
        for tenant, count in steps.items():
            self._tenant_steps.get(tenant, self._tenant_steps[OTHER]).add(count)
        self._batch_size.observe(rows)
        self._bucket_rows.add(bucket)
        self._tick_s.observe(seconds)

    @override
    def stepped(self, queue_s: Float64s, latency_s: Float64s) -> None:
        self._queue_s.observe_all(queue_s)
        self._latency_s.observe_all(latency_s)

    @override
    def tokens(self, count: int, first_token_s: Float64s, inter_token_s: Float64s) -> None:
        self._tokens.add(count)
        self._first_token_s.observe_all(first_token_s)
        self._inter_token_s.observe_all(inter_token_s)

    @override
    def inferred(self, sequences: int, steps: int, seconds: float) -> None:
        self._sequences.add(sequences)
        self._sequence_steps.add(steps)
        self._infer_s.observe(seconds)

    @override
    def not_finite(self) -> None:
        self._not_finite.add()

    @override
    def opened(self) -> None:
        self._opened.add()

    @override
    def ended(self, how: str) -> None:
        self._ended[how].add()

    @override
    def moved(self, how: str) -> None:
        self._moved[how].add()

    @override
    def placed(self, at_owner: int, elsewhere: int) -> None:
        self._at_owner.add(at_owner)
        self._elsewhere.add(elsewhere)

    @override
    def handed_over(self, why: Why, seconds: float) -> None:
        self._handed_over[why].add()
        self._hand_over_s.observe(seconds)

    @override
    def received(self) -> None:
        self._received.add()

    @override
    def tenant_sessions(self, rows: Mapping[str, int]) -> None:
        levels = dict.fromkeys(self._tenant_sessions, 0)
        for tenant, count in rows.items():
            levels[tenant if tenant in levels else OTHER] += count
        for label, level in levels.items():
            self._tenant_sessions[label].set(level)

    @override
    def data_loss(self, reason: str) -> None:
        self._data_losses[reason].add()

    @override
    def durable(self, lag_s: Float64s) -> None:
        self._durable_lag_s.observe_all(lag_s)

    @override
    def gauges(
        self,
        *,
        resident: int,
        generating: int,
        pending_steps: int,
        inbox: int,
        undurable_steps: int,
        misplaced: int,
    ) -> None:
        self._resident.set(resident)
        self._slots_used.set(resident)
        self._state_bytes.set(resident * self._state_bytes_per_session)
        self._generating.set(generating)
        self._queue_steps.set(pending_steps)
        self._inbox.set(inbox)
        self._undurable_steps.set(undurable_steps)
        self._misplaced.set(misplaced)
