"""The oldest versions that are promised, that are tested, and that stubs are made with are the same."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
STUBS = ROOT / "protos" / "carousel_protos" / "v1"


def pins(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("==") for line in lines)


FLOOR = pins(ROOT / "client" / "python" / "floor.txt")


def test_the_floor_is_what_the_package_promises() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    promised = dict(requirement.split(">=") for requirement in project["dependencies"])
    assert promised.keys() == FLOOR.keys()
    for name, version in FLOOR.items():
        assert version == promised[name] or version.startswith(promised[name] + "."), name


def test_the_stubs_are_made_with_the_floor() -> None:
    tools = pins(ROOT / "protos" / "requirements.txt")
    assert tools["grpcio-tools"] == FLOOR["grpcio"]
    assert tools["googleapis-common-protos"] == FLOOR["googleapis-common-protos"]


@pytest.mark.parametrize("path", sorted(STUBS.glob("*_pb2*.py")), ids=lambda path: path.name)
def test_no_stub_asks_for_a_newer_runtime(path: Path) -> None:
    """Newer generators write a check that refuses every runtime before their own."""
    text = path.read_text()
    assert "ValidateProtobufRuntimeVersion" not in text
    assert "GRPC_GENERATED_VERSION" not in text


def test_the_check_runs_with_the_newest_too() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "client" / "python" / "check_floor.py"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "protobuf" in done.stdout
