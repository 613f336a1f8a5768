"""What the demo runs: which clients, how many, on which models."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """What the clients of a group do."""

    GENERATE = "generate"
    STREAM = "stream"
    INFER = "infer"


@dataclass(frozen=True, slots=True)
class Crew:
    """Clients that do the same, in a process of their own.

    Attributes:
        role: what they do.
        model: on which model.
        clients: how many of them at a time.
        title: what people read.
        unit: what is counted: one token, one step, one file.
        timed: what its latencies are.
    """

    role: Role
    model: str
    clients: int
    title: str
    unit: str
    timed: str


CREWS = (
    Crew(Role.GENERATE, "pychar-lstm", 32, "write Python", "tokens", "request to first token"),
    Crew(Role.STREAM, "sunspots-gru", 24, "forecast sunspots", "steps", "row to forecast"),
    Crew(Role.INFER, "pytag-bilstm", 2, "tag Python files", "files", "file to tags"),
)
MODELS = tuple(crew.model for crew in CREWS)
