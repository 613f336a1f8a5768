"""The limits of one engine: everything it queues, keeps or waits for is bounded by one of these."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """Known at start, never changed. Settings of the same names fill it (see config.py).

    Attributes:
        slots: sessions resident on the device at a time.
        max_batch: rows stepped together in one tick.
        chunk_steps: most steps that one session advances in one tick; bounds how long a long prompt
            can hold up the others.
        window_steps: most steps of one session sent but not acknowledged; rounded up to a power of two.
        window_bytes: memory for the windows of all slots together; shrinks window_steps if needed.
        inbox_commands: commands waiting for the engine, of all clients together.
        inbox_bytes: bytes of the inputs in those commands.
        sessions_per_tenant: sessions of one tenant on this engine.
        idle_ttl_s: idle time after which a session expires, unless it asks for another.
        park_after_s: idle time after which a session that the store keeps gives its slot back.
        durable_steps: most steps that an async session runs ahead of the store (K).
        durable_s: time within which its steps reach the store while that answers (T).
        max_idle_ttl_s: the most that a session may ask for.
        max_sequence_steps: longest sequence of Infer and longest prompt of Generate.
        max_infer_queue: whole sequences waiting.
        infer_batch_steps: padded steps (sequences × longest) of whole sequences that run at once.
        max_generate_tokens: most tokens of one generation.
        retry_after_s: the hint that goes with a refusal.
        tick_timeout_s: a tick that takes longer makes the model unhealthy.
    """

    slots: int = 4096
    max_batch: int = 256
    chunk_steps: int = 16
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
    retry_after_s: float = 0.5
    tick_timeout_s: float = 60.0
