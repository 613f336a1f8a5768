"""The `carousel` command. Each command has a module. All errors are printed here."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated, NoReturn

import typer

from carousel._version import __version__

from .commands import (
    bench,
    compare,
    config,
    demo,
    doctor,
    generate,
    health,
    infer,
    models,
    plan,
    serve,
    sessions,
    store,
    stream,
    top,
)
from .commands import version as version_command
from .exits import ExitCode
from .failures import report
from .options import (
    Ca,
    Cert,
    Debug,
    Key,
    Options,
    OutputOption,
    Server,
    ServerName,
    Tls,
    Token,
    from_environment,
    merged,
    wants_json,
)
from .printing import print_line

EPILOG = (
    "Exit codes: 0 done · 1 failed · 2 wrong usage or configuration · 3 server unreachable · "
    "4 refused by the server · 130 interrupted"
)

app = typer.Typer(
    name="carousel",
    help="Carousel serves recurrent models. Their state stays on the server, and steps run in batches.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (
    serve, demo, generate, stream, infer, bench, plan, sessions, store, models, compare, health, top,
    doctor, config, version_command,
):  # fmt: skip
    module.register(app)


def show_version(wanted: bool) -> None:
    """Prints the version and ends the command."""
    if wanted:
        print_line(f"carousel {__version__}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", "-V", is_eager=True, callback=show_version, help="Show the version."
        ),
    ] = False,
    server: Server = None,
    token: Token = None,
    output: OutputOption = None,
    debug: Debug = False,
    tls: Tls = None,
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
    server_name: ServerName = None,
) -> None:
    """Reads the options before the command's name."""
    encrypted = (tls, ca, cert, key, server_name)
    context.obj = merged(from_environment(), server, token, output, debug, *encrypted)


def run(arguments: list[str]) -> int:
    """Runs one command line. Returns the exit code."""
    try:
        return int(app(arguments, prog_name="carousel", standalone_mode=False) or ExitCode.OK)
    except (KeyboardInterrupt, typer.Abort):
        if sys.stderr.isatty():
            sys.stderr.write("\n")  # the terminal has printed ^C on the current line
        return ExitCode.INTERRUPTED
    except SystemExit as end:  # Typer raises it for a broken pipe and after a completion
        if isinstance(end.__context__, BrokenPipeError):
            return reader_left()
        if isinstance(end.code, int):
            return end.code
        raise
    except Exception as error:  # noqa: BLE001 - the last place where an error can become two lines
        if is_help(error):
            return ExitCode.USAGE
        return report(error, debug="--debug" in arguments, as_json=wants_json(arguments))


def is_help(error: Exception) -> bool:
    """True for `carousel` or `carousel models` alone. Typer's error then is the help."""
    if type(error).__name__ != "NoArgsIsHelpError":
        return False
    error.show()  # type: ignore[attr-defined]
    return True


def reader_left() -> int:
    """Ends without an error after the reader has closed the pipe, as `head` does."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return ExitCode.OK


def main() -> NoReturn:
    """Entry point of the console script."""
    signal.signal(signal.SIGTERM, interrupted)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC's own lines would repeat ours
    sys.exit(run(sys.argv[1:]))


def interrupted(_number: int, _frame: object) -> None:
    """Ends a command at SIGTERM as at Ctrl-C: it stops children and closes sessions."""
    raise KeyboardInterrupt


__all__ = ["Options", "app", "main", "run"]

if __name__ == "__main__":
    main()
