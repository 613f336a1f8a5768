"""The one exception of model packages."""

from __future__ import annotations


class PackageError(Exception):
    """A package cannot be written, read or trusted. The message says the cause and the fix."""


class KernelError(RuntimeError):
    """A kernel that this machine cannot run. The message says the cause."""
