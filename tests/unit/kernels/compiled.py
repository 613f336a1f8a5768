"""Compiles what the `cuda` kernel launches for a GPU that need not be there, and prints a line for each.

Run by test_cuda.py in a process of its own, where Triton compiles. Layers are stepped on the CPU; Triton is
asked as it is at a launch, with the same arguments, but what it makes is not run.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from carousel_models import Manifest
from carousel_models.creating import random_tensors
from carousel_models.kernels import cuda, gates, packed
from carousel_models.loading import build
from carousel_models.spec import FeaturesInput, LayerSpec


class Launches:
    """Stands in for the module `gates`: keeps the machine code of each launch."""

    def __init__(self) -> None:
        self.made: dict[Any, str] = {}

    def __getattr__(self, name: str) -> Any:
        kernel = getattr(gates, name)

        class Kernel:
            def __getitem__(_self, grid: tuple[int, int]) -> Any:  # noqa: N805
                def launch(*arguments: Any, **flags: Any) -> None:
                    code = kernel.run(*arguments, grid=grid, warmup=True, **flags)
                    self.made[code] = f"{name} {len(code.asm['cubin'])}"

                return launch

        return Kernel()


def step(cell: Any, dtype: Any) -> None:
    """Two layers with and without slots, residual and an input as wide as the state, then the slab's rows."""
    stack = (
        LayerSpec(cell=cell, hidden=24, residual=True),
        LayerSpec(cell=cell, hidden=17),
    )
    manifest = Manifest(
        name="m", fingerprint="0" * 64, input=FeaturesInput(width=24), stack=stack, dtype=dtype
    )
    typed = getattr(torch, dtype)
    tensors = {
        name: tensor.to(typed) if tensor.dim() == 2 else tensor
        for name, tensor in random_tensors(manifest, 0).items()
    }
    model = build(manifest, tensors, kernel=cuda.Cuda())
    slab, slots = model.initial_state(9), torch.arange(4)
    x = torch.zeros(4, 24)
    _, state = model.step(x, slab, slots)
    model.step(x, state)
    model.kernel.scatter_into(slab)(slots, state)


def main() -> None:
    target = GPUTarget("cuda", int(sys.argv[1]), 32)
    driver.set_active(
        Namespace(
            get_current_target=lambda: target,
            get_current_device=lambda: 0,
            get_current_stream=lambda _device: 0,
        )
    )
    launches = Launches()
    packed.gates = cuda.gates = launches  # type: ignore[assignment]
    for cell in ("rnn_tanh", "rnn_relu", "lstm", "gru", "gru_reset_before"):
        for dtype in ("float32", "bfloat16"):
            step(cell, dtype)
    print("\n".join(launches.made.values()))


if __name__ == "__main__":
    main()
