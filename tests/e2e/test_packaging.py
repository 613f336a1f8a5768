"""The wheel: what is in it, and that the base install is the SDK and the command without torch."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def quietly(*command):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    quietly(
        sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
        "--wheel-dir", folder, ROOT,
    )  # fmt: skip
    (path,) = folder.glob("carousel_serving-*.whl")
    return path


def test_the_wheel_holds_four_packages_their_types_and_the_zoo(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for package in ("carousel", "carousel_server", "carousel_models", "carousel_protos"):
        assert f"{package}/py.typed" in names
    assert "carousel/cli/demo/sunspots.csv" in names
    assert "carousel_protos/v1/carousel_pb2.py" in names
    assert "carousel_protos/triton/inference.binpb" in names
    console = ROOT / "server/carousel_server/http/console"
    assert {f"carousel_server/http/console/{file.name}" for file in console.iterdir()} <= names
    kernel = {Path(name).name for name in names if name.startswith("carousel_models/kernels/")}
    assert {"layer.cpp", "product.h", "vectors.h"} <= kernel
    assert not any(name.endswith(".so") for name in names)  # the wheel fits every machine
    zoo = {name.split("/")[2] for name in names if name.startswith("carousel_models/zoo/")}
    assert {path.parent.name for path in (ROOT / "models/zoo").glob("*/manifest.json")} <= zoo


def test_the_wheel_holds_nothing_else(wheel):
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    (info,) = (top for top in tops if top.endswith(".dist-info"))
    assert tops - {info} == {"carousel", "carousel_server", "carousel_models", "carousel_protos"}


def test_the_base_install_is_the_sdk_without_torch(wheel, tmp_path):
    quietly(sys.executable, "-m", "venv", "--without-pip", tmp_path / "env")
    python, command = tmp_path / "env/bin/python", tmp_path / "env/bin/carousel"
    pip = (sys.executable, "-m", "pip", "--python", python)
    quietly(*pip, "install", "--quiet", "--no-compile", wheel)
    installed = quietly(*pip, "list", "--format", "freeze").lower()
    assert "grpcio==" in installed
    assert "torch" not in installed
    assert "safetensors" not in installed
    quietly(
        python,
        "-c",
        "import carousel; carousel.Client('localhost:1').close(); carousel.AsyncClient",
    )
    assert "serve" in quietly(command, "--help")
    refused = subprocess.run([command, "serve"], capture_output=True, text=True)
    assert refused.returncode == 1
    assert "pip install 'carousel-serving[server]'" in refused.stderr
    assert "Traceback" not in refused.stderr
