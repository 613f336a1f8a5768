"""Looks up names in tables. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

Entry = TypeVar("Entry")


def entry(
    table: Mapping[Any, Entry], name: str, what: str, error: type[Exception], fix: str
) -> Entry:
    """The entry of a name.

    Args:
        table: entries by name.
        name: the name of the entry.
        what: the kind of entries, in the singular.
        error: the class of the exception for an unknown name.
        fix: who must act, and how.

    Raises:
        Exception: of class `error`. It has the name, all known names, and the fix.
    """
    if name in table:
        return table[name]
    raise error(f"there is no {what} {name!r}, only {', '.join(table)}; {fix}")
