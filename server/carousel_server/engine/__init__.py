"""The engine: one model's heartbeat, from inbox to device to sinks."""

from .engine import Engine, Environment

__all__ = ["Engine", "Environment"]
