"""The slab: states of any type, and the rows with initial states."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from carousel_models import StateSpec
from carousel_models.kernels import Kernel, Reference, choose
from carousel_models.states import RANGES
from carousel_server.rows.slab import Slab
from tests.parity.conftest import KERNELS

CPU = torch.device("cpu")
ONES = {"bool": True, "complex64": 1 - 2j}


def kernel_named(name: str) -> Kernel:
    return Reference() if name == "reference" else choose(name, CPU)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
@pytest.mark.parametrize("dtype", RANGES)
def test_every_type_goes_in_and_comes_out(dtype: str, shape: tuple[int, ...], kernel: str) -> None:
    spec = StateSpec("s", shape, getattr(torch, dtype))
    start = torch.full(shape, ONES.get(dtype, 7), dtype=spec.dtype)
    initials = [(torch.zeros_like(start),), (start,)]
    slab = Slab([spec], 3, CPU, kernel_named(kernel), initials)
    assert slab.tensors[0].shape == (3 + 1 + 2, *shape)
    slab.begin(1, initial=1)
    assert torch.equal(slab.tensors[0][1], start)
    taken = slab.take(torch.tensor([0, 1]))["s"]
    assert (taken.shape[1:], taken.dtype.str) == slab.layout()["s"]
    slab.restore(2, {"s": taken[1, ...]})
    assert torch.equal(slab.tensors[0][2], start)
    slab.scatter(torch.tensor([0]), (start[None],))
    assert torch.equal(slab.gather(torch.tensor([0]))[0][0], start)
    slab.begin(0)
    assert not slab.tensors[0][0].any()
    assert torch.equal(slab.tensors[0][slab.initial_row(1)], start)


def test_without_initial_states_there_is_one_of_zeros() -> None:
    slab = Slab([StateSpec("s", (2,), torch.float32)], 2, CPU)
    slab.restore(0, {"s": np.ones(2, "<f4")})
    slab.begin(0)
    assert not slab.tensors[0].any()
    assert slab.initial_row(0) == len(slab.tensors[0]) - 1
