"""A sandbox for the harness: network, mounts and processes of its own, which end with it.

All that a run makes (namespaces, addresses, servers, stores) lives inside. The sandbox's first process is the
harness. When it ends, by whatever, the kernel ends all other processes and frees the namespaces. It needs the
rights of root, or a system that gives users namespaces of their own.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]

_INSIDE = "CAROUSEL_CLUSTER_SANDBOX"
_OWN = ("--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")
_AS_ROOT = ("--user", "--map-root-user")
_PROGRAMS = {"unshare": "util-linux", "nsenter": "util-linux", "ip": "iproute2", "nft": "nftables",
             "redis-server": "redis-server", "haproxy": "haproxy"}  # fmt: skip
_MAKES_NAMESPACES = (
    "mount -t tmpfs none /run && mkdir /run/netns && ip netns add a && nft list ruleset"
)


def why_not() -> str:
    """Why this machine has no sandbox; empty if it has one."""
    for program, package in _PROGRAMS.items():
        if shutil.which(program, path=os.pathsep.join(_path())) is None:
            return f"{program} is missing: apt-get install {package}"
    tried = subprocess.run(
        [*_unshare(), "sh", "-c", _MAKES_NAMESPACES], capture_output=True, text=True,
        env=environment(),
    )  # fmt: skip
    if tried.returncode:
        return f"network namespaces need the rights of root: {tried.stderr.strip()}"
    return ""


def is_inside() -> bool:
    """This process is the first of a sandbox."""
    return _INSIDE in os.environ


def run(module: str, arguments: Sequence[str]) -> int:
    """Runs `python -m module` as the first process of a sandbox, shows what it says, returns its exit code.

    The sandbox ends with this process, whatever ends it.
    """
    command = [*_unshare(), sys.executable, "-m", module, *arguments]
    process = subprocess.Popen(
        command, cwd=ROOT, env={**environment(), _INSIDE: "1"}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
        return process.wait()
    finally:
        process.kill()
        process.wait()


def enter() -> None:
    """To be called first inside: makes places for namespaces, and ends the process with its starter."""
    assert is_inside()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    threading.Thread(target=_end_with_starter, name="starter", daemon=True).start()
    for command in (
        ["mount", "-t", "tmpfs", "none", "/run"],
        ["mkdir", "/run/netns", "/run/clocks"],
        ["ip", "link", "set", "lo", "up"],
    ):
        subprocess.run(command, check=True)
    # Else a stopped or forgotten child of a child would wait for the first process, which is this one.
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)


def _end_with_starter() -> None:
    sys.stdin.read()
    os._exit(130)


def _unshare() -> list[str]:
    return ["unshare", *(() if os.geteuid() == 0 else _AS_ROOT), *_OWN]


def _path() -> list[str]:
    return [*os.environ.get("PATH", "").split(os.pathsep), "/usr/sbin", "/sbin"]


def environment() -> dict[str, str]:
    """For processes that import the harness."""
    return {
        **os.environ,
        "PATH": os.pathsep.join(_path()),
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests"))),
        "OMP_NUM_THREADS": "1",
    }
