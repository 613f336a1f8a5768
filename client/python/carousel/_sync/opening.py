"""Opens a session at once, where `_async` returns an object to await."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def opening(opened: Callable[[], T]) -> T:
    """A session that `opened` opens, now."""
    return opened()
