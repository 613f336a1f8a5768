"""The limits of one engine. They bound all its queues, its memory and its waiting times."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """Limits of one engine, constant after the start. Settings of the same names set them (config.py).

    Attributes:
        slots: sessions resident on the device at a time.
        max_batch: rows stepped together in one tick.
        chunk_steps: most steps that one session advances in one tick. It bounds how long a long
            prompt can delay other sessions.
        shared_tick_s: time that a tick's batch takes at most, about, while several tenants have work. 0 is
            no bound.
        window_steps: most steps of one session sent but not acknowledged, rounded up to a power of 2.
        window_bytes: memory for the windows of all slots together. It reduces window_steps if needed.
        inbox_commands: commands waiting for the engine, of all clients together.
        inbox_bytes: bytes of the inputs in those commands.
        sessions_per_tenant: sessions of one tenant on this engine.
        idle_ttl_s: idle time after which a session expires, unless it requests another.
        park_after_s: idle time after which a session with a store is parked.
        durable_steps: most steps that an async session runs ahead of the store (K).
        durable_s: time within which its steps reach the store, while the store answers (T).
        max_idle_ttl_s: the longest idle_ttl that a session may request.
        max_sequence_steps: longest sequence of Infer and longest prompt of Generate.
        max_infer_queue: whole sequences waiting.
        infer_batch_steps: padded steps (sequences × longest) of whole sequences that run at once.
        max_generate_tokens: most tokens of one generation.
        hand_over_s: longest time that a session waits to be handed over to another replica.
        retry_after_s: the hint in a refusal.
        tick_timeout_s: a tick that takes longer makes the model unhealthy.
    """

    slots: int = 4096
    max_batch: int = 256
    chunk_steps: int = 16
    shared_tick_s: float = 0.002
    window_steps: int = 128
    window_bytes: int = 1 << 30
    inbox_commands: int = 16_384
    inbox_bytes: int = 256 << 20
    sessions_per_tenant: int = 1_000_000
    idle_ttl_s: float = 3600.0
    max_idle_ttl_s: float = 7 * 86_400.0
    park_after_s: float = 60.0
    durable_steps: int = 32
    durable_s: float = 0.05
    max_sequence_steps: int = 65_536
    max_infer_queue: int = 256
    infer_batch_steps: int = 65_536
    max_generate_tokens: int = 65_536
    hand_over_s: float = 1.0
    retry_after_s: float = 0.5
    tick_timeout_s: float = 60.0
