"""Which kernel a server would take, and why. Nothing is compiled or loaded."""

from __future__ import annotations

from typing import NamedTuple

import torch

from carousel_models.errors import KernelError

from .compiling import find_compiler, is_prepared, level


class Outlook(NamedTuple):
    """The kernel for a device.

    Attributes:
        name: the kernel.
        why: why it is this one, for people.
        fix: what would make a faster one available. "" if there is nothing to do.
        prepared: it can be used now, without a compiler.
    """

    name: str
    why: str
    fix: str = ""
    prepared: bool = True


def outlook(wanted: str, device: torch.device) -> Outlook:
    """The kernel that `choose` takes with the same arguments.

    Raises:
        KernelError: the named kernel cannot run here.
    """
    if wanted == "reference":
        return Outlook("reference", "kernel=reference, which is plain torch")
    if wanted not in ("auto", device.type):
        raise KernelError(f"the kernel {wanted!r} does not run on {device.type}; set kernel=auto")
    if device.type != "cpu":
        return _of_gpu(wanted)
    try:
        return _of_cpu()
    except KernelError as error:
        if wanted == "cpu":
            raise
        cause, _, fix = str(error).rpartition("; ")
        return Outlook(
            "reference", cause or fix, fix if cause else "use such a processor, or accept it"
        )


def _of_gpu(wanted: str) -> Outlook:
    if wanted == "auto":
        return Outlook("reference", "auto uses torch on a GPU; kernel=cuda uses graphs")
    return Outlook("cuda", "kernel=cuda")


def _of_cpu() -> Outlook:
    """The native library of this processor. Raises KernelError where there is none."""
    name = level()
    if is_prepared(name):
        return Outlook("cpu", f"native code for {name}")
    compiler = find_compiler()
    return Outlook("cpu", f"{compiler} compiles it for {name} at the first start", prepared=False)
