"""What a crew's process tells the demo, one JSON object a line."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from .histogram import Histogram


@dataclass(slots=True)
class Report:
    """What has happened since the report before.

    Attributes:
        units: tokens, steps or files.
        sessions: sessions of the crew open now.
        mended: sessions bound again so far, after a server has gone.
        latencies: of those units.
        text: what the one client shown live has written.
        error: why a client failed; "" while all is well.
    """

    units: int = 0
    sessions: int = 0
    mended: int = 0
    latencies: Histogram = field(default_factory=Histogram)
    text: str = ""
    error: str = ""

    def encode(self) -> str:
        """One line, without its end."""
        counts = (self.units, self.sessions, self.mended)
        values = (*counts, self.latencies.as_json(), self.text, self.error)
        return json.dumps(values)


def decode(line: str) -> Report:
    """The report in a line."""
    units, sessions, mended, latencies, text, error = json.loads(line)
    return Report(units, sessions, mended, Histogram(latencies), text, error)
