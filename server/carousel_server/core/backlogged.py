"""Which tenants have steps for many ticks while others have some too. The wire reads their streams later."""

from __future__ import annotations

import threading
from collections.abc import Callable

Watch = Callable[[frozenset[str]], None]


class Backlogged:
    """The backlogged tenants of all models. Engines set them, the wire reads them, on any thread.

    Attributes:
        tenants: of all models, as of the last change.
    """

    def __init__(self) -> None:
        self.tenants: frozenset[str] = frozenset()
        self._lock = threading.Lock()
        self._at: dict[str, frozenset[str]] = {}
        self._watches: list[Watch] = []

    def set(self, model: str, tenants: frozenset[str]) -> None:
        """Replaces the backlogged tenants of one model."""
        with self._lock:
            self._at[model] = tenants
            self._change(frozenset[str]().union(*self._at.values()))

    def add(self, model: str, tenant: str) -> None:
        """Adds one to them."""
        with self._lock:
            self._at[model] = self._at.get(model, frozenset()) | {tenant}
            self._change(self.tenants | {tenant})

    def at(self, model: str) -> frozenset[str]:
        """Those of one model."""
        return self._at.get(model, frozenset())

    def set_all(self, tenants: frozenset[str]) -> None:
        """Replaces those of all models, as another process has counted them."""
        with self._lock:
            self._change(tenants)

    def _change(self, tenants: frozenset[str]) -> None:
        if tenants != self.tenants:
            self.tenants = tenants
            for watch in self._watches:
                watch(tenants)

    def watch(self, watch: Watch) -> Callable[[], None]:
        """Calls `watch` now and after each change, on any thread. Returns what ends this.

        It must return at once.
        """
        with self._lock:
            self._watches.append(watch)
            watch(self.tenants)

        def end() -> None:
            with self._lock:
                self._watches.remove(watch)

        return end
