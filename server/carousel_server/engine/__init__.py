"""The engine: one model's heartbeat, from inbox to device to sinks."""

from .engine import Engine

__all__ = ["Engine"]
