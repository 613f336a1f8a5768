"""The SDK's log on stderr: that the server was lost, and that it was found again."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from .printing import note


class Notes(logging.Handler):
    """Writes each record as a line for people."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one record."""
        note(f"carousel: {record.getMessage()}")


@contextmanager
def noted() -> Iterator[None]:
    """Inside the block the SDK's log goes to stderr."""
    logger, notes = logging.getLogger("carousel"), Notes(logging.INFO)
    former = logger.level
    logger.addHandler(notes)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(notes)
        logger.setLevel(former)
