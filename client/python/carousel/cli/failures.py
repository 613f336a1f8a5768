"""Prints any exception as two lines, cause and fix, and chooses the exit code."""

from __future__ import annotations

import json
import sys
import traceback
from typing import Protocol, cast

from .exits import CliError, ExitCode, usage_error
from .printing import printable

SERVER_PACKAGES = {
    "carousel_models", "carousel_server", "grpc_health", "grpc_reflection", "pydantic",
    "pydantic_settings", "safetensors", "tokenizers", "torch",
}  # fmt: skip


# The fix for users of the command, where the registry's fix is about the protocol.
COMMANDS = {
    "MODEL_NOT_CAUSAL": "run whole sequences: carousel infer MODEL FILE",
    "MODEL_NOT_GENERATIVE": "stream rows through it: carousel stream MODEL FILE.csv; "
    "carousel models list shows which models are language models",
    "INPUT_NOT_FINITE": "correct the row; the session is unchanged",
    "STEP_NOT_FINITE": "the row is outside the range that the model can compute; send another row; "
    "the session is unchanged",
    "INITIAL_UNKNOWN": "choose one of these with --initial, or leave it out",
    "REPLY_TIMEOUT": "check the server: carousel health; see which steps have run: carousel sessions show ID",
    "SESSION_NOT_FOUND": "list the open sessions: carousel sessions list",
}


class UsageFailure(Protocol):
    """Typer's exception for a wrong command line. Its name depends on Typer's version."""

    ctx: object

    def format_message(self) -> str:
        """The cause."""


def report(error: BaseException, debug: bool, as_json: bool = False) -> ExitCode:
    """Prints an error on stderr and returns its exit code.

    It prints two lines for people. For programs (`as_json`) it prints one JSON object in one line.
    """
    if debug:
        traceback.print_exception(error)
    failure = explained(error)
    if as_json:
        sys.stderr.write(json.dumps(record_of(failure)) + "\n")
        return failure.code
    red, bold, plain = ("\x1b[31;1m", "\x1b[1m", "\x1b[0m") if colourful() else ("", "", "")
    sys.stderr.write(f"{red}carousel:{plain} {printable(failure.cause)}\n")
    if failure.fix:
        sys.stderr.write(f"  {bold}fix:{plain} {printable(failure.fix)}\n")
    return failure.code


def record_of(failure: CliError) -> dict[str, object]:
    """An error as JSON. `reason` is the name in the registry, or null."""
    return {
        "error": failure.cause,
        "fix": failure.fix or None,
        "reason": failure.reason or None,
        "request_id": failure.request_id or None,
        "exit_code": int(failure.code),
    }


def colourful() -> bool:
    """True if stderr is a terminal and NO_COLOR is not set."""
    import os

    return sys.stderr.isatty() and "NO_COLOR" not in os.environ


def explained(error: BaseException) -> CliError:
    """The error with cause, fix and exit code."""
    if isinstance(error, CliError):
        return error
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):
        return of_usage(cast("UsageFailure", error))
    if isinstance(error, ModuleNotFoundError):
        return of_missing_module(error)
    refused = of_sdk(error)  # before OSError, because a lost connection is one too
    if refused:
        return refused
    if isinstance(error, OSError):
        return of_operating_system(error)
    return of_package(error) or of_settings(error) or of_defect(error)


def of_usage(error: UsageFailure) -> CliError:
    """The error for a wrong flag, command or argument."""
    path = getattr(error.ctx, "command_path", "carousel") if error.ctx else "carousel"
    message = error.format_message().rstrip().replace("Value error, ", "")
    fix = f"see {path} --help"
    if is_perhaps_a_setting(error):
        fix = f"{fix}; set a setting without a flag by --set NAME=VALUE"
    return usage_error(message[:1].lower() + message[1:], fix)


def is_perhaps_a_setting(error: UsageFailure) -> bool:
    """True for an unknown flag of a command that has --set."""
    command = getattr(error.ctx, "command", None)
    flags = {flag for given in getattr(command, "params", ()) for flag in given.opts}
    return hasattr(error, "option_name") and "--set" in flags


def of_missing_module(error: ModuleNotFoundError) -> CliError:
    """The error for a command whose extra is not installed."""
    package = (error.name or "").partition(".")[0]
    if package in SERVER_PACKAGES:
        return CliError(
            f"this command needs the server's packages, and {package} is not installed",
            "pip install 'carousel-serving[server]'",
        )
    if package == "matplotlib":
        return CliError("drawing needs matplotlib", "pip install 'carousel-serving[zoo]'")
    return of_defect(error)


def of_operating_system(error: OSError) -> CliError:
    """The error for a missing file, an unreadable file, and other errors of the system."""
    subject = f"{error.filename}: " if error.filename else ""
    code = ExitCode.USAGE if isinstance(error, FileNotFoundError) else ExitCode.FAILED
    cause, _, fix = f"{subject}{error.strerror or error}".partition("\n")
    return CliError(cause, fix, code)


def of_sdk(error: BaseException) -> CliError | None:
    """The error for a refusal by the server, or for no server."""
    from carousel import _error_bases as sdk

    if not isinstance(error, sdk.CarouselError):
        return None
    code = ExitCode.REFUSED
    if isinstance(error, sdk.ServerUnreachableError | sdk.ConnectionLostError):
        code = ExitCode.UNREACHABLE
    elif isinstance(error, sdk.ClientSideError):
        code = ExitCode.FAILED
    request = f", request {error.request_id}" if error.request_id else ""
    fix = COMMANDS.get(error.reason, error.fix)
    cause = f"{error.message} ({error.reason}{request})"
    return CliError(cause, fix, code, reason=error.reason, request_id=error.request_id or "")


def of_package(error: BaseException) -> CliError | None:
    """The error for a model package, whose message is "cause; fix"."""
    models = sys.modules.get("carousel_models.errors")
    if models is None or not isinstance(error, models.PackageError):
        return None
    if hasattr(error.__cause__, "errors"):
        return usage_error(of_validation(error.__cause__.errors()))
    cause, _, fix = str(error).rpartition("; ")
    return CliError(cause, fix, ExitCode.FAILED) if cause else CliError(fix)


def of_validation(details: list[dict[str, object]]) -> str:
    """The faults that pydantic found, in one line: each field, and what it must be."""
    parts = []
    for detail in details:
        where = ".".join(map(str, detail["loc"] if isinstance(detail["loc"], tuple) else ()))
        what = str(detail["msg"]).removeprefix("Value error, ")
        parts.append(f"{where}: {what[:1].lower()}{what[1:]}" if where else what)
    return "; ".join(parts)


def of_settings(error: BaseException) -> CliError | None:
    """The error for a setting that cannot be used."""
    if isinstance(error, ValueError):
        first, *rest = str(error).strip().splitlines() or [type(error).__name__]
        return usage_error(first, "; ".join(line.strip() for line in rest[:1]))
    return None


def of_defect(error: BaseException) -> CliError:
    """The error for a defect of Carousel."""
    return CliError(
        f"unexpected {type(error).__name__}: {error}",
        "run it again with --debug and report what it prints",
    )
