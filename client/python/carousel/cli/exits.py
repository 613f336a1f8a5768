"""How the command ends: exit codes, the error with cause and fix, and hints for mistyped names."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from enum import IntEnum


class ExitCode(IntEnum):
    """The exit codes, as in `carousel --help` and docs/guides/cli.md."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    REFUSED = 4
    INTERRUPTED = 130


class CliError(Exception):
    """Ends the command with two lines: the cause, and the fix.

    `reason` is the name in the registry of errors. It is "" for errors of the command itself.
    """

    def __init__(
        self,
        cause: str,
        fix: str = "",
        code: ExitCode = ExitCode.FAILED,
        *,
        reason: str = "",
        request_id: str = "",
    ) -> None:
        self.cause = cause
        self.fix = fix
        self.code = code
        self.reason = reason
        self.request_id = request_id
        super().__init__(cause)


def usage_error(cause: str, fix: str = "") -> CliError:
    """The error for a wrong command line or file."""
    return CliError(cause, fix, ExitCode.USAGE)


SHOWN_NAMES = 8


def did_you_mean(name: str, known: Iterable[str], *, shown: int = SHOWN_NAMES) -> str:
    """A hint with the closest of `known`, or with the first `shown` of them. "" if there are none."""
    names = sorted(known)
    close = get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    if not names:
        return ""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return "choose one of: " + ", ".join(names[:shown]) + more
