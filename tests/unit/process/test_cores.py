"""Threads follow what the process may use: control groups of both versions, and the affinity mask."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from carousel_server.process.cores import usable_cores

CORES = 64


@pytest.fixture(autouse=True)
def large_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(CORES)), raising=False)


class Groups:
    """Control groups on disk."""

    def __init__(self, folder: Path) -> None:
        self.mount = folder / "cgroup"
        self.own = folder / "own"
        self.own.write_text("")

    def write(self, path: str, text: str) -> None:
        file = self.mount / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def cores(self, own: str) -> int:
        self.own.write_text(own)
        return usable_cores(self.mount, self.own)


@pytest.fixture
def groups(tmp_path: Path) -> Groups:
    return Groups(tmp_path)


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("max 100000", CORES),
        ("400000 100000", 4),
        ("250000 100000", 2),
        ("50000 100000", 1),
        ("12800000 100000", CORES),
        ("20000 10000", 2),
        ("", CORES),
        ("nonsense", CORES),
        ("100000 0", CORES),
    ],
)
def test_a_quota_of_version_2(groups: Groups, quota: str, cores: int) -> None:
    groups.write("cpu.max", quota)
    assert groups.cores("0::/\n") == cores


def test_a_parents_quota_bounds_its_children(groups: Groups) -> None:
    groups.write("pod/cpu.max", "300000 100000")
    groups.write("pod/box/cpu.max", "max 100000")
    assert groups.cores("0::/pod/box\n") == 3
    groups.write("pod/box/cpu.max", "200000 100000")
    assert groups.cores("0::/pod/box\n") == 2


@pytest.mark.parametrize("folder", ["cpu", "cpu,cpuacct"])
@pytest.mark.parametrize(("quota", "cores"), [("-1", CORES), ("600000", 6), ("150000", 1)])
def test_a_quota_of_version_1(groups: Groups, folder: str, quota: str, cores: int) -> None:
    groups.write(f"{folder}/box/cpu.cfs_quota_us", quota)
    groups.write(f"{folder}/box/cpu.cfs_period_us", "100000")
    assert groups.cores("12:memory:/box\n4:cpu,cpuacct:/box\n") == cores


def test_a_path_from_outside_the_container_ends_at_the_mount(groups: Groups) -> None:
    groups.write("cpu/cpu.cfs_quota_us", "200000")
    groups.write("cpu/cpu.cfs_period_us", "100000")
    assert groups.cores("4:cpu,cpuacct:/kubepods/pod1/box\n") == 2


def test_a_system_without_groups_has_its_cores(tmp_path: Path) -> None:
    assert usable_cores(tmp_path / "none", tmp_path / "none") == CORES


def test_the_affinity_mask_counts(groups: Groups, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5}, raising=False)
    groups.write("cpu.max", "400000 100000")
    assert groups.cores("0::/\n") == 1


@pytest.mark.skipif(shutil.which("taskset") is None, reason="needs taskset of util-linux")
def test_a_process_on_one_core_sees_one() -> None:
    code = (
        "import os; os.cpu_count = lambda: 64\n"
        "from carousel_server.process.cores import usable_cores; print(usable_cores())"
    )
    command = ["taskset", "--cpu-list", str(min(_real_mask())), sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


def _real_mask() -> list[int]:
    status = Path("/proc/self/status").read_text()
    allowed = next(line for line in status.splitlines() if line.startswith("Cpus_allowed_list"))
    return [int(part.split("-")[0]) for part in allowed.split(":")[1].split(",")]
