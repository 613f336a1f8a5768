"""`carousel version`: shows the installed versions."""

from __future__ import annotations

import platform

import typer

from carousel.cli.options import Options, command
from carousel.cli.printing import print_record

PACKAGES = ("grpcio", "protobuf", "numpy", "torch")


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @command(app, "version")
    def show(options: Options) -> None:
        """Show the versions of Carousel and of its main packages."""
        from carousel._version import __version__

        record = {"carousel": __version__, "python": platform.python_version()}
        record |= {package: installed(package) for package in PACKAGES}
        record["transport"] = transport()
        print_record(options, record)


def transport() -> str:
    """What ends gRPC in a server with `transport=auto` here, and how to get the native one."""
    try:
        from carousel_server.wire.native.library import outlook
    except ImportError:
        return "not installed"
    return outlook()


def installed(package: str) -> str:
    """The version of an installed package, from its metadata. The package is not imported."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
