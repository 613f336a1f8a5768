"""When the tick began that runs on this thread: sinks are told of outputs in the middle of it."""

from __future__ import annotations

import threading


class _Tick(threading.local):
    began_s = 0.0


_tick = _Tick()


def set_began(at_s: float) -> None:
    """A tick begins on this thread, at an instant of the engine's clock. A link says it again."""
    _tick.began_s = at_s


def began_s() -> float:
    """Instant at which this thread's tick began; 0 where none has run."""
    return _tick.began_s
