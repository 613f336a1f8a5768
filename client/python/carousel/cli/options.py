"""The options of every command, before or after its name: server, token, TLS and format."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import wraps
from itertools import pairwise
from typing import Annotated, Any, get_type_hints

import typer

from .exits import usage_error
from .tls import TlsOptions, own_address, own_tls

DEFAULT_SERVER = "localhost:50051"
DEFAULT_METRICS_PORT = 9464
PANEL = "Options of every command"


class Output(StrEnum):
    """Format of results."""

    TABLE = "table"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Options:
    """The values of the options of every command."""

    server: str = DEFAULT_SERVER
    token: str | None = None
    output: Output = Output.TABLE
    debug: bool = False
    tls: TlsOptions = field(default_factory=TlsOptions)
    server_given: bool = False
    """True if the server was named, by option or by CAROUSEL_SERVER."""


Server = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="HOST:PORT",
        help="Address of the server; A:PORT,B:PORT or dns:///NAME:PORT for several. "
        f"Default: CAROUSEL_SERVER, or {DEFAULT_SERVER}.",
        rich_help_panel=PANEL,
    ),
]
Token = Annotated[
    str | None,
    typer.Option(
        "--token", help="Bearer token. Default: CAROUSEL_TOKEN, or none.", rich_help_panel=PANEL
    ),
]
OutputOption = Annotated[
    Output | None,
    typer.Option("--format", "-o", help="Format of the result.", rich_help_panel=PANEL),
]
Debug = Annotated[
    bool,
    typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel=PANEL),
]
Tls = Annotated[
    bool | None,
    typer.Option(
        "--tls",
        help="Encrypt the connection. Default: CAROUSEL_TLS, or off.",
        rich_help_panel=PANEL,
    ),
]
Ca = Annotated[
    str | None,
    typer.Option(
        "--ca",
        metavar="FILE",
        help="Trust these authorities. Default: CAROUSEL_CA.",
        rich_help_panel=PANEL,
    ),
]
Cert = Annotated[
    str | None,
    typer.Option(
        "--cert",
        metavar="FILE",
        help="Present this certificate. Default: CAROUSEL_CERT.",
        rich_help_panel=PANEL,
    ),
]
Key = Annotated[
    str | None,
    typer.Option(
        "--key",
        metavar="FILE",
        help="The certificate's key. Default: CAROUSEL_KEY.",
        rich_help_panel=PANEL,
    ),
]
ServerName = Annotated[
    str | None,
    typer.Option(
        "--server-name",
        metavar="NAME",
        help="Name to expect in the server's certificate. Default: CAROUSEL_SERVER_NAME.",
        rich_help_panel=PANEL,
    ),
]
HINTS: dict[str, Any] = {
    "server": Server, "token": Token, "form": OutputOption, "debug": Debug,
    "tls": Tls, "ca": Ca, "cert": Cert, "key": Key, "server_name": ServerName,
}  # fmt: skip
DEFAULTS: dict[str, Any] = {**dict.fromkeys(HINTS), "debug": False}


def from_environment() -> Options:
    """The options from the environment."""
    server = os.environ.get("CAROUSEL_SERVER")
    return Options(
        server=server or DEFAULT_SERVER,
        token=os.environ.get("CAROUSEL_TOKEN"),
        tls=TlsOptions.from_environment(os.environ),
        server_given=bool(server),
    )


def resolved(options: Options) -> Options:
    """The options. If no server was named, they have address and TLS of the server configured here."""
    if options.server_given:
        return options
    server = own_address(os.environ, options.server)
    tls = options.tls if options.tls.wanted else own_tls(os.environ, server)
    return replace(options, server=server, tls=tls)


def wants_json(arguments: list[str]) -> bool:
    """True if the command line requests JSON, even if the rest of it is wrong."""
    forms = {"-ojson", "--format=json"}
    pairs = pairwise(arguments)
    return any(a in forms for a in arguments) or any(
        flag in ("-o", "--format") and value == Output.JSON for flag, value in pairs
    )


def merged(
    base: Options,
    server: str | None,
    token: str | None,
    output: Output | None,
    debug: bool,
    *tls: Any,
) -> Options:
    """`base` with the given values. `tls` has the fields of TlsOptions."""
    return replace(
        base,
        server=server or base.server,
        token=token or base.token,
        output=output or base.output,
        debug=debug or base.debug,
        tls=TlsOptions(*tls).over(base.tls),
        server_given=base.server_given or server is not None,
    )


def command(
    app: typer.Typer, name: str | None = None, **settings: Any
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Adds a function to `app` as a command that also has the options of every command.

    The function's first parameter receives them as `Options`. The others are its own, as in Typer.
    """

    def add(function: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(function, include_extras=True)
        hints.pop("return", None)
        first, *own = inspect.signature(function).parameters.values()
        assert hints.pop(first.name) is Options, (
            f"the first parameter of {function.__name__} is Options"
        )

        @wraps(function)
        def run(context: typer.Context, **values: Any) -> None:
            shared = [values.pop(key) for key in HINTS]
            options = merged(context.obj or from_environment(), *shared)
            context.find_root().obj = options
            function(options, **values)

        run.__annotations__ = {"context": typer.Context, **hints, **HINTS}
        run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [
                inspect.Parameter(
                    "context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context
                ),
                *(
                    p.replace(annotation=hints[p.name], kind=inspect.Parameter.KEYWORD_ONLY)
                    for p in own
                ),
                *(
                    inspect.Parameter(
                        key,
                        inspect.Parameter.KEYWORD_ONLY,
                        annotation=HINTS[key],
                        default=DEFAULTS[key],
                    )
                    for key in HINTS
                ),
            ]
        )
        app.command(name, help=unwrapped(function.__doc__ or ""), **settings)(run)
        return function

    return add


def unwrapped(text: str) -> str:
    """A docstring with one line for each paragraph, because help is wrapped to the terminal's width."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def assignments(pairs: Iterable[str]) -> dict[str, str]:
    """KEY=VALUE pairs as a mapping. Dashes in keys become underscores.

    Raises:
        CliError: a pair has no "=" or no key.
    """
    values = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise usage_error(f"--set {pair} has no value", "write it as --set KEY=VALUE")
        values[key.strip().replace("-", "_")] = value
    return values
