"""How the command ends: exit codes, and the one error that carries cause and fix."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What the shell sees; documented in `carousel --help` and docs/guides/cli.md."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    REFUSED = 4
    INTERRUPTED = 130


class CliError(Exception):
    """Ends the command with two lines: what went wrong, and what to do about it.

    `reason` is the name in the registry of errors, "" where the error is none of the server or SDK.
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
    """The user's command line or file is at fault."""
    return CliError(cause, fix, ExitCode.USAGE)
