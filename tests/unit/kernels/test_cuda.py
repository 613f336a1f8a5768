"""The `cuda` kernel without a GPU: interpreted, compiled but not run, chosen and refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from carousel_models import kernels
from carousel_models.errors import KernelError

HERE = Path(__file__).parent
CUDA = torch.device("cuda")

try:
    import triton.language  # noqa: F401
except ImportError:
    HAS_TRITON = False
else:
    HAS_TRITON = True

with_triton = pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed here")


def run(*command: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        cwd=HERE.parents[2],
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    return done.stdout


@with_triton
def test_interpreted_it_gives_the_references_numbers() -> None:
    out = run(
        *("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"),
        str(HERE / "interpreted.py"),
        TRITON_INTERPRET="1",
    )
    assert " passed" in out
    assert "skipped" not in out


@with_triton
def test_all_that_it_launches_can_be_compiled_for_a_gpu(tmp_path: Path) -> None:
    """For compute capability 9.0; Triton brings the assembler along."""
    out = run(str(HERE / "compiled.py"), "90", TRITON_CACHE_DIR=str(tmp_path), TRITON_INTERPRET="0")
    made = {line.split()[0] for line in out.splitlines()}
    assert made == {"pack", "rnn", "lstm", "gru", "reset", "gru_reset_before", "scatter"}


def test_it_is_refused_on_the_cpu() -> None:
    with pytest.raises(KernelError, match="'cuda' does not run on cpu"):
        kernels.choose("cuda", torch.device("cpu"))


def test_without_triton_it_is_refused_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("triton", "triton.language"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("cuda", "chain", "packed", "gates"):
        monkeypatch.delitem(sys.modules, f"carousel_models.kernels.{name}", raising=False)
    with pytest.raises(KernelError, match=r"needs Triton.*torch's builds for CUDA.*reference"):
        kernels.choose("cuda", CUDA)


@with_triton
def test_it_is_chosen_by_name_only(monkeypatch: pytest.MonkeyPatch) -> None:
    from carousel_models.kernels import cuda

    monkeypatch.setattr(kernels, "CudaRecorder", lambda: None)
    monkeypatch.setattr(cuda, "open_cuda", lambda _device, recorder: cuda.Cuda(recorder))
    assert kernels.choose("cuda", CUDA).name.startswith("cuda-triton-")
    assert not kernels.choose("cuda", CUDA).batch_invariant
    assert kernels.choose("auto", CUDA).name == "reference"


@with_triton
def test_where_triton_cannot_compile_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from carousel_models.kernels import cuda

    def failing(*_arguments: object) -> None:
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(cuda, "launch", failing)
    with pytest.raises(KernelError, match=r"needs a C compiler.*Failed to find"):
        cuda.open_cuda(torch.device("cpu"), None)
    monkeypatch.setattr(cuda, "launch", lambda *_arguments: None)
    with pytest.raises(KernelError, match="wrongly"):
        cuda.open_cuda(torch.device("cpu"), None)
