"""What the fake server was called for."""

from __future__ import annotations

import threading


class CallLog:
    """Names of calls, in order; can be waited for. Any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._names: list[str] = []

    def add(self, name: str) -> None:
        """A call came."""
        with self._changed:
            self._names.append(name)
            self._changed.notify_all()

    def wait_for(self, name: str, timeout_s: float) -> None:
        """Returns once a call of this name has come. Raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: name in self._names, timeout_s):
                raise TimeoutError(f"{name} did not come; these did: {self._names}")

    def names(self) -> list[str]:
        """All so far."""
        with self._changed:
            return list(self._names)
