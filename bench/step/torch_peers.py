"""D5 in torch: its layers at sequence length 1, its cells, and the cells compiled with frozen weights."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from .cases import Case
from .timing import Run

HAS_COMPILER = any(map(shutil.which, ("c++", "g++", "clang++")))


def runs(case: Case, *, compiled: bool) -> Iterator[tuple[str, Run]]:
    """Every contestant's name and call. Compiling takes seconds a case."""
    yield "torch layer", layer(case, torch.device("cpu"))
    yield "torch cell", _cells(case)
    if compiled and HAS_COMPILER:
        yield "torch compiled", _compiled(case)


def layer(case: Case, device: torch.device) -> Run:
    """Its own module; cuDNN's on CUDA."""
    kind = nn.LSTM if case.cell == "lstm" else nn.GRU
    module = kind(case.hidden, case.hidden, case.layers).to(device, case.torch_dtype).eval()
    of = {"dtype": case.torch_dtype, "device": device}
    x = torch.randn(1, case.batch, case.hidden, **of)  # type: ignore[call-overload]
    h = torch.zeros(case.layers, case.batch, case.hidden, **of)  # type: ignore[call-overload]
    state = (h, h.clone()) if case.cell == "lstm" else h
    return lambda: module(x, state)


class _Cells(nn.Module):
    """A step written by hand."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        kind = nn.LSTMCell if case.cell == "lstm" else nn.GRUCell
        self.cells = nn.ModuleList(kind(case.hidden, case.hidden) for _ in range(case.layers))

    def forward(self, x: Tensor, state: list[tuple[Tensor, ...]]) -> list[tuple[Tensor, ...]]:
        after: list[tuple[Tensor, ...]] = []
        for cell, part in zip(self.cells, state, strict=True):
            new = cell(x, part if len(part) > 1 else part[0])
            after.append(new if isinstance(new, tuple) else (new,))
            x = after[-1][0]
        return after


def _cells(case: Case) -> Run:
    module = _Cells(case).to(case.torch_dtype).eval()
    x, state = _operands(case)
    return lambda: module(x, state)


def _compiled(case: Case) -> Run:
    inductor = importlib.import_module("torch._inductor.config")
    inductor.freezing = True  # type: ignore[attr-defined]
    torch.compiler.reset()
    module = torch.compile(_Cells(case).to(case.torch_dtype).eval(), dynamic=False)
    x, state = _operands(case)

    def run() -> object:
        # Freezing wants no_grad; inference mode would make it compile anew.
        with torch.inference_mode(False), torch.no_grad():
            return module(x, state)

    return run


def _operands(case: Case) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
    with torch.inference_mode(False):
        x = torch.randn(case.batch, case.hidden, dtype=case.torch_dtype)
        count = 2 if case.cell == "lstm" else 1
        state = [tuple(torch.zeros_like(x) for _ in range(count)) for _ in range(case.layers)]
    return x, state
