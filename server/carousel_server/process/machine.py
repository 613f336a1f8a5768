"""Checks what a server runs on: torch and its device, kernel, transport, cores, open files."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Generator, Iterator
from importlib.util import find_spec
from pathlib import Path

from carousel_server.wire import transport_outlook

from .config import ConfigError, Settings
from .cores import cpu_quota, usable_cores
from .findings import Finding, Level, halves, problem, unless, well
from .runtime import WANTED_FILES

_DRIVER = Path("/proc/driver/nvidia/version")
_SPARE_FILES = 1024
"""Files beside connections: libraries, pipes, the store, its connections."""


def machine(settings: Settings) -> Generator[Finding, None, bool]:
    """Checks the machine. Returns whether a kernel is there without the compiler."""
    device, found = _device(settings)
    yield found
    kernel, prepared = _kernel(settings, device)
    yield kernel
    yield _transport(settings)
    yield _event_loop()
    yield from _cores(settings)
    yield from _open_files(settings)
    return prepared


def _device(settings: Settings) -> tuple[str, Finding]:
    """The device of the models, "" if there is none."""
    import torch

    from .assembly import choose_device

    try:
        device = choose_device(settings.device)
    except ConfigError as error:
        return "", problem("device", error)
    if device.startswith("cuda"):
        name = torch.cuda.get_device_name(device)
        found = (
            f"torch {torch.__version__} on {device}, {name}, of {torch.cuda.device_count()} GPUs"
        )
        return device, well("device", found)
    unseen = settings.device == "auto" and _DRIVER.exists()
    fix = "install torch's build for CUDA, or set device=cpu" if unseen else ""
    there = "; there is a driver of NVIDIA, but torch finds no GPU" if unseen else ""
    return device, unless(fix, "device", f"torch {torch.__version__} on {device}{there}")


def _kernel(settings: Settings, device: str) -> tuple[Finding, bool]:
    """The kernel, and whether it needs no compiler."""
    import torch

    from carousel_models.errors import KernelError
    from carousel_models.kernels import outlook

    if not device:
        return Finding("kernel", Level.SKIPPED, "it depends on the device"), False
    try:
        found = outlook(settings.kernel, torch.device(device))
    except KernelError as error:
        cause, fix = halves(error)
        return Finding("kernel", Level.PROBLEM, cause, fix or "set kernel=auto"), False
    return unless(found.fix, "kernel", f"{found.name}: {found.why}"), found.prepared


def _transport(settings: Settings) -> Finding:
    """What ends gRPC. The native one is compiled at its first start, so it is not loaded here."""
    name, _, reason = transport_outlook().partition("; ")
    if settings.transport == "python":
        more = f"; here auto would be {name}" if not reason else f"; no native one: {reason}"
        return well("transport", f"grpc.aio, because transport=python{more}")
    if not reason:
        return well("transport", f"{name}, because transport={settings.transport}")
    cause, _, fix = reason.rpartition(": ")
    level = Level.PROBLEM if settings.transport == "native" else Level.WARNING
    return Finding("transport", level, f"grpc.aio, because of {cause or reason}", fix)


def _event_loop() -> Finding:
    there = find_spec("uvloop") is not None
    fix = "" if there else "pip install uvloop: it handles a third more messages a core"
    python = f"Python {platform.python_version()}"
    return unless(fix, "event loop", f"{'uvloop' if there else 'asyncio'} on {python}")


def _cores(settings: Settings) -> Iterator[Finding]:
    usable, quota = usable_cores(), cpu_quota()
    limit = "no quota" if quota is None else f"a quota of {quota:g} cores"
    found = f"{usable} usable of {os.cpu_count()}, {limit}"
    fix = "give it two: an engine and gRPC each keep one busy" if usable < 2 else ""
    if settings.torch_threads > usable:
        fix = f"set torch_threads to {usable} at most; more threads wait for each other"
        found += f", and torch_threads={settings.torch_threads}"
    yield unless(fix, "cores", found)


def _open_files(settings: Settings) -> Iterator[Finding]:
    """The limit after a start, which raises the soft one to the hard one."""
    if sys.platform == "win32":
        return
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = WANTED_FILES if hard == resource.RLIM_INFINITY else min(WANTED_FILES, hard)
    needed = settings.max_connections + _SPARE_FILES
    fix = (
        f"raise the hard limit to {WANTED_FILES} (LimitNOFILE of systemd, --ulimit nofile of Docker), or "
        "lower max_connections"
        if limit < needed
        else ""
    )
    found = f"{limit:,} at most, for {settings.max_connections:,} connections"
    yield unless(fix, "open files", found)
