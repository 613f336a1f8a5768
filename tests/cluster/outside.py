"""Sessions of outsiders: unary calls without the SDK, through the proxy that places them by a header."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import carousel
from carousel_protos.v1 import carousel_pb2 as pb
from tests.chaos.load import Load
from tests.chaos.tracks import StepTrack
from tests.e2e.outsiders import Outsider


class Outsiders:
    """Drives sessions at a proxy, each in a thread, for a load.

    Attributes:
        refusals: reasons for which calls were made again, and how often.
    """

    def __init__(self, proxy: str) -> None:
        self._proxy = proxy
        self.refusals: Counter[str] = Counter()

    def drive(self, load: Load, client: carousel.Client, tracks: Sequence[StepTrack]) -> None:
        """Steps one session, and compares its cursor at the end."""
        (track,) = tracks
        # They repeat only the step that failed. So its predecessors must be in the store.
        track.durability, track.resets = "sync", False
        with Outsider(self._proxy, track.id) as session:
            session.open(pb.DURABILITY_SYNC)
            while load.goes_on():
                (row,) = track.rows(track.count, 1)
                track.asks(1)
                load.got(track, session.step(row)[None])
            self.refusals += session.refusals
        applied = client.session_info(track.id).applied
        assert applied == track.count, f"{track.id}: {track.count} outputs, but applied {applied}"
