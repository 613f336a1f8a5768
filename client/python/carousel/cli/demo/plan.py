"""The demo's clients: their models, numbers and titles."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """The work of a group of clients."""

    GENERATE = "generate"
    STREAM = "stream"
    INFER = "infer"


@dataclass(frozen=True, slots=True)
class Crew:
    """Clients with the same work, in one process.

    Attributes:
        role: their work.
        model: the name of their model.
        clients: how many run at a time.
        title: the work in words.
        unit: what is counted: tokens, steps or files.
        timed: what the latencies measure.
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
