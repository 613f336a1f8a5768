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
        print_record(options, record)


def installed(package: str) -> str:
    """The version of an installed package, from its metadata. The package is not imported."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
