"""What probes of an orchestrator are told: one line a check, and a status for those who read no text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. `fault` says why it is not well; "" where it is."""

    name: str
    fault: str = ""

    def __str__(self) -> str:
        return f"failed {self.name}: {self.fault}" if self.fault else f"ok {self.name}"


Checks = Callable[[], Sequence[Check]]
"""Looks now. Any thread; must not wait."""


def none() -> Sequence[Check]:
    """No checks: whoever answers is well."""
    return ()


@dataclass(frozen=True, slots=True)
class Probes:
    """The checks behind each path.

    Attributes:
        live: what only a new process mends.
        ready: whether calls should be sent here now.
    """

    live: Checks = none
    ready: Checks = none


def answer(checks: Sequence[Check]) -> tuple[str, bytes]:
    """The HTTP status and the text: 200 where every check is well, else 503."""
    well = not any(check.fault for check in checks)
    lines = [*map(str, checks), "ok" if well else "failed"]
    return "200 OK" if well else "503 Service Unavailable", "".join(
        f"{x}\n" for x in lines
    ).encode()
