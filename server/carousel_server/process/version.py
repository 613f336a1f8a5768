"""The version that is installed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as distribution_version


def version() -> str:
    """The version of the distribution, such as "0.1.0"."""
    try:
        return distribution_version("carousel-serving")
    except PackageNotFoundError:  # run from a tree that was not installed
        return "unknown"
