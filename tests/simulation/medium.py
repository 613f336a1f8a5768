"""Where a simulated client's journal is kept: bytes that outlive its lives, the last of them perhaps torn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from carousel._core.journal import Journal
from carousel._core.journal_records import Kind, encode

if TYPE_CHECKING:
    from .world import World


class JournalMedium:
    """Implements `carousel._core.journal.JournalPort`."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._data = b""

    def open(self, session_id: str, model: str) -> Journal:
        """The journal that is here; a new one if there is none."""
        journal = Journal(self, self._data)
        if not journal.session_id:
            journal.begin(session_id, model)
        return journal

    def append(self, data: bytes) -> None:
        """See `JournalPort`."""
        self._data += data

    def replace(self, data: bytes) -> None:
        """See `JournalPort`."""
        self._data = data

    def close(self) -> None:
        """See `JournalPort`."""

    def tear(self) -> None:
        """The process dies; sometimes in the middle of writing what it was about to send."""
        if self._data and self._world.rng.random() < 0.5:
            record = encode(Kind.INPUTS, 1, b"\x01\0\0\0" + bytes(4))
            self._data += record[: self._world.rng.randrange(len(record))]
