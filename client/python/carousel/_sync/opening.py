"""The blocking client opens a session at once; `_async` has an object that is yet to be awaited."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def opening(opened: Callable[[], T]) -> T:
    """A session that `opened` opens, now."""
    return opened()
