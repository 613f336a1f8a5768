"""The number of cores that this process may use, by affinity and by the quota of its control group."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_MOUNT = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")
_V1_FOLDERS = ("cpu", "cpu,cpuacct")


def usable_cores(mount: Path = _MOUNT, own_groups: Path = _OWN_GROUPS) -> int:
    """Number of cores that can be busy without being throttled, at least 1.

    A quota of 2.5 cores gives 2. With a third thread, all three would wait for the next period.

    Args:
        mount: where control groups are mounted, of version 1 or 2.
        own_groups: the kernel's list of the groups that this process is in.
    """
    quota = cpu_quota(mount, own_groups)
    allowed = _allowed()
    return allowed if quota is None else max(1, min(allowed, int(quota)))


def cpu_quota(mount: Path = _MOUNT, own_groups: Path = _OWN_GROUPS) -> float | None:
    """The quota of this process's control groups in cores. None for no quota. Arguments as `usable_cores`."""
    return min(_quotas(mount, own_groups), default=None)


def _allowed() -> int:
    """Cores of the affinity mask, or of the machine where the system has no mask."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quotas(mount: Path, own_groups: Path) -> Iterator[float]:
    """The quotas, in cores, of this process's groups and of their parents."""
    try:
        lines = own_groups.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            for folder in _with_parents(mount, path):
                yield from _quota_of_v2(folder / "cpu.max")
        elif "cpu" in controllers.split(","):
            for name in dict.fromkeys((*_V1_FOLDERS, controllers)):
                for folder in _with_parents(mount / name, path):
                    yield from _quota_of_v1(folder)


def _with_parents(mount: Path, path: str) -> Iterator[Path]:
    """The folder of a group and those above it. Inside a container, some may not exist."""
    steps = [step for step in path.split("/") if step not in ("", ".", "..")]
    for depth in range(len(steps), -1, -1):
        yield mount.joinpath(*steps[:depth])


def _quota_of_v2(file: Path) -> Iterator[float]:
    """The quota from `cpu.max`: a quota, or "max", and a period in microseconds."""
    words = _words(file)
    if len(words) == 2 and words[0].isdecimal() and words[1].isdecimal() and int(words[1]):
        yield int(words[0]) / int(words[1])


def _quota_of_v1(folder: Path) -> Iterator[float]:
    """The quota from two files, in microseconds. A quota of -1 is none."""
    words = [*_words(folder / "cpu.cfs_quota_us"), *_words(folder / "cpu.cfs_period_us")]
    if len(words) == 2 and words[0].isdecimal() and words[1].isdecimal() and int(words[1]):
        yield int(words[0]) / int(words[1])


def _words(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError):
        return []
