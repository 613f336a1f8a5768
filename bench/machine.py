"""What a figure was measured on."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from carousel_server.process.cores import usable_cores

_LIBRARIES = ("torch", "grpcio", "protobuf", "numpy", "uvloop")
_ON_A_GPU = ("triton",)


def facts(device: str) -> dict[str, object]:
    """Processor, memory, versions, load. No names of hosts or users."""
    gpu = device == "cuda"
    libraries = {name: _version(name) for name in _LIBRARIES + _ON_A_GPU * gpu}
    if gpu:
        libraries["CUDA"] = torch.version.cuda or "none"
    return {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu_model(),
        "cores": usable_cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_at_start": os.getloadavg()[0],
        "device": torch.cuda.get_device_name() if gpu else "cpu",
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "libraries": libraries,
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"
