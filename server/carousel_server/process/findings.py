"""What `carousel doctor` finds: one line a check, and the fix."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How well a thing is."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Attributes:
        check: the thing that was checked.
        level: how well it is.
        found: what was found. It has no secrets.
        fix: what to do. "" if it is well.
    """

    check: str
    level: Level
    found: str
    fix: str = ""


def well(check: str, found: str) -> Finding:
    """A thing that is as it should be."""
    return Finding(check, Level.OK, found)


def unless(fix: str, check: str, found: str) -> Finding:
    """A warning if there is a fix, else a thing that is well."""
    return Finding(check, Level.WARNING if fix else Level.OK, found, fix)


def problem(check: str, error: Exception) -> Finding:
    """A thing that would end a start, from the error of that start."""
    cause, fix = halves(error)
    return Finding(check, Level.PROBLEM, cause, fix)


def halves(error: Exception) -> tuple[str, str]:
    """Cause and fix of an error. Settings have the fix in line two, packages after a semicolon."""
    text = str(error)
    cause, _, fix = text.partition("\n") if "\n" in text else text.rpartition("; ")
    return (cause, fix) if cause else (fix, "")
