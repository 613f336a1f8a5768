"""The outlook names the kernel that `choose` takes, and compiles nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from carousel_models.errors import KernelError
from carousel_models.kernels import compiling, outlook

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(compiling, "SHIPPED", tmp_path / "shipped")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def test_names_and_devices() -> None:
    assert outlook("reference", CPU).name == "reference"
    assert outlook("auto", CUDA).name == "reference"
    assert outlook("cuda", CUDA).name == "cuda"
    with pytest.raises(KernelError, match="does not run on cpu"):
        outlook("cuda", CPU)


def test_a_library_that_is_not_there_yet(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("carousel_models.kernels.outlooks.level", lambda: "avx2")
    monkeypatch.setattr(compiling.shutil, "which", lambda name: f"/bin/{name}")
    found = outlook("auto", CPU)
    assert (found.name, found.prepared) == ("cpu", False)
    assert "first start" in found.why
    assert list(nowhere.iterdir()) == []


def test_a_library_that_is_there(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("carousel_models.kernels.outlooks.level", lambda: "avx2")
    (nowhere / "shipped").mkdir()
    (nowhere / "shipped" / f"carousel-avx2-{compiling._digest('avx2')}.so").touch()
    assert outlook("cpu", CPU).prepared


def test_no_compiler(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("carousel_models.kernels.outlooks.level", lambda: "avx2")
    monkeypatch.setattr(compiling.shutil, "which", lambda _: None)
    found = outlook("auto", CPU)
    assert found.name == "reference"
    assert "install one" in found.fix
    with pytest.raises(KernelError, match="no C\\+\\+ compiler"):
        outlook("cpu", CPU)
