"""Fixtures of the tests that use NVIDIA's Python client."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has tritonclient, and nothing of ours: it pins grpcio and protobuf."""
    folder = tmp_path_factory.mktemp("tritonclient")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    install = [folder / "bin/python", "-m", "pip", "install", "--quiet", "tritonclient[grpc]"]
    done = subprocess.run(install, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"tritonclient cannot be installed: {done.stderr.strip()[-300:]}")
    return folder / "bin/python"
