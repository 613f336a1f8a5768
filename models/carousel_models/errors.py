"""The exceptions of model packages and kernels."""

from __future__ import annotations


class PackageError(Exception):
    """A package that cannot be written, read or trusted. The message has the form "cause; fix"."""


class KernelError(RuntimeError):
    """A kernel that this machine cannot run. The message has the cause."""
