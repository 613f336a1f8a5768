"""kubectl, to render Kustomize's folders as `kubectl apply -k` does."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from support.wheels import CACHE, unpacked

PINS = Path(__file__).with_name("kubectl.txt")

Manifest = dict[str, Any]


@cache
def kubectl() -> Path:
    """The program on PATH. Where there is none, that of a pinned wheel, in the cache."""
    found = shutil.which("kubectl")
    return pinned_kubectl() if found is None else Path(found)


def pinned_kubectl() -> Path:
    """The program in the wheel: an archive in an archive, unpacked once."""
    folder = unpacked(PINS, CACHE / "kubectl")
    program = folder / "kubectl"
    if not program.exists():
        (layer,) = folder.rglob("lambda-layer-kubectl-*.jsii.tgz")
        with tarfile.open(layer) as package:
            member = package.extractfile("package/lib/layer.zip")
            assert member is not None
            content = zipfile.ZipFile(io.BytesIO(member.read())).read("kubectl/kubectl")
        partial = folder / f"kubectl.{os.getpid()}"
        partial.write_bytes(content)
        partial.chmod(0o755)
        partial.rename(program)  # atomic: several test processes start at once
    return program


def render(folder: Path, program: Path | None = None) -> list[Manifest]:
    """The manifests that `kubectl apply -k folder` applies.

    Raises:
        AssertionError: kubectl refuses the folder, or warns of it.
    """
    done = subprocess.run(
        [program or kubectl(), "kustomize", folder], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one is not None]
