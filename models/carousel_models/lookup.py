"""Tables of what is known by name. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

Entry = TypeVar("Entry")


def entry(
    table: Mapping[Any, Entry], name: str, what: str, error: type[Exception], fix: str
) -> Entry:
    """The entry of a name.

    Args:
        table: what is known.
        name: what is asked for.
        what: what the table holds, in the singular.
        error: the class to raise for a name that is not known.
        fix: who must act, and how.

    Raises:
        Exception: of class `error`; it names the name, all names that are known, and the fix.
    """
    if name in table:
        return table[name]
    raise error(f"there is no {what} {name!r}, only {', '.join(table)}; {fix}")
