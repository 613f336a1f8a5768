"""Programs run in the tests' own process leave it as they found it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Puts the handlers of SIGINT and SIGTERM back behind a program that ends with its process.

    A closed uvloop leaves its own there, and a test that comes later would wait for ever for its Ctrl-C.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
