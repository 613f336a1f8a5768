"""Did you mean …? For names that a person has mistyped."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

SHOWN = 8


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence with the closest of `known`, or a list of them; "" if there are none."""
    names = sorted(known)
    close = get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    if not names:
        return ""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return "there are: " + ", ".join(names[:SHOWN]) + more
