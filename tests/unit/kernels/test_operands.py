"""Native code reads what it is given by address: anything else than it expects is refused, always."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from carousel_models.cells import Weights
from carousel_models.errors import KernelError
from carousel_models.kernels.library import Library, NativeLayer, NativeTargets, load_library

ROWS, INPUTS, UNITS = 4, 3, 5
GATES = {"lstm": 4, "gru": 3}
SLOTS = torch.arange(ROWS)


@pytest.fixture(scope="module")
def native() -> Library:
    try:
        return load_library()
    except KernelError as unavailable:
        pytest.skip(f"the cpu kernel: {unavailable}")


def weights(cell: str, **other: Tensor) -> Weights:
    rows = GATES.get(cell, 1) * UNITS
    made = Weights(torch.rand(rows, INPUTS), torch.rand(rows, UNITS), torch.rand(rows), None)
    return made._replace(**other)


def operands(**other: Tensor | None) -> dict[str, Any]:
    """What an lstm's step takes."""
    good = {"x": torch.rand(ROWS, INPUTS), "h": torch.rand(ROWS, UNITS)}
    return {**good, "c": torch.rand(ROWS, UNITS), "slots": None, **other}


@pytest.mark.parametrize("name", ["x", "h", "c"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int32])
def test_other_types(native: Library, name: str, dtype: torch.dtype) -> None:
    bad = operands()[name].to(dtype)
    with pytest.raises(TypeError, match=rf"^{name} is {dtype} on cpu instead of torch\.float32"):
        NativeLayer(native, "lstm", weights("lstm")).step(**operands(**{name: bad}))


@pytest.mark.parametrize("name", ["x", "h", "c"])
def test_other_devices(native: Library, name: str) -> None:
    bad = operands()[name].to("meta")
    with pytest.raises(TypeError, match="on meta instead of"):
        NativeLayer(native, "lstm", weights("lstm")).step(**operands(**{name: bad}))


@pytest.mark.parametrize(
    ("name", "shape"),
    [("x", (4, 2)), ("x", (4, 3, 1)), ("x", (4,)), ("h", (3, 5)), ("h", (4, 4)), ("c", (4, 6))],
)
def test_other_shapes(native: Library, name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"^{name} is \[.*\] instead of \[4, "):
        NativeLayer(native, "lstm", weights("lstm")).step(**operands(**{name: torch.rand(shape)}))


@pytest.mark.parametrize("cell", ["sigmoid", "rnn_tanh", "rnn_relu", "gru", "lstm"])
def test_a_state_that_is_missing(native: Library, cell: str) -> None:
    layer = NativeLayer(native, cell, weights(cell))
    x, _, c, _ = operands().values()
    with pytest.raises(ValueError, match="h is missing"):
        layer.step(x, None, c if cell == "lstm" else None)
    with pytest.raises(ValueError, match=r"c is missing|only an lstm has a c"):
        layer.step(x, operands()["h"], None if cell == "lstm" else c)


def test_slots_without_a_state(native: Library) -> None:
    layer = NativeLayer(native, "linear", weights("linear", hh=torch.empty(UNITS, 0)))
    assert layer.step(operands()["x"])[0].shape == (ROWS, UNITS)
    with pytest.raises(ValueError, match="h is missing"):
        layer.step(operands()["x"], slots=SLOTS)


@pytest.mark.parametrize(
    ("slots", "error"),
    [
        (SLOTS.int(), TypeError),
        (SLOTS.float(), TypeError),
        (SLOTS.to("meta"), TypeError),
        (SLOTS[:2], ValueError),
        (SLOTS[None], ValueError),
        (torch.arange(8)[::2], ValueError),
        (SLOTS + 1, IndexError),
    ],
)
def test_slots(native: Library, slots: Tensor, error: type[Exception]) -> None:
    target = torch.zeros(ROWS, 2)
    with pytest.raises(error, match="slot"):
        NativeLayer(native, "lstm", weights("lstm")).step(**operands(slots=slots))
    if len(slots) == ROWS:
        with pytest.raises(error, match="slot"):
            NativeTargets(native, [target]).write(slots, (torch.ones(ROWS, 2),))
    assert not target.any()


def test_sources_and_targets(native: Library) -> None:
    targets = NativeTargets(native, [torch.zeros(6, 2)])
    with pytest.raises(TypeError, match=r"float64 on cpu instead of torch\.float32"):
        targets.write(SLOTS, (torch.ones(ROWS, 2, dtype=torch.float64),))
    with pytest.raises(ValueError, match=r"\[4, 1\] is not 4 rows of 2"):
        targets.write(SLOTS, (torch.ones(ROWS, 1),))
    with pytest.raises(ValueError, match="argument"):
        targets.write(SLOTS, ())
    for bad in (torch.zeros(2, 6).T, torch.tensor(1.0)):
        with pytest.raises(ValueError, match="row after row"):
            NativeTargets(native, [bad])
    with pytest.raises(TypeError, match="on meta"):
        NativeTargets(native, [torch.zeros(6, 2, device="meta")])


def test_a_single_row_is_as_long_as_its_shape_says(native: Library) -> None:
    """Torch calls a single row contiguous whatever its stride is."""
    memory = torch.zeros(8)
    target = memory.as_strided((1, 2), (6, 1))
    NativeTargets(native, [target]).write(torch.tensor([0]), (torch.ones(1, 2),))
    assert memory.tolist() == [1, 1, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("cell", "name", "shape"),
    [
        ("lstm", "ih", (19, 3)),
        ("lstm", "hh", (16, 5)),
        ("gru", "hh", (15, 6)),  # a state of 6 could not be mixed with 5 candidates
        ("gru", "bias_ih", (14,)),
        ("rnn_tanh", "bias_hh", (4,)),
    ],
)
def test_weights(native: Library, cell: str, name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=f"{name} of {cell} is"):
        NativeLayer(native, cell, weights(cell, **{name: torch.rand(shape)}))
    with pytest.raises(ValueError, match="matrices"):
        NativeLayer(native, cell, weights(cell, hh=torch.rand(7)))


def test_results_do_not_follow_torchs_defaults(native: Library) -> None:
    """Memory for results that is of a smaller type would be written beyond its end."""
    layer, given = NativeLayer(native, "lstm", weights("lstm")), operands()
    wanted = layer.step(**given)
    try:
        torch.set_default_dtype(torch.bfloat16)
        found = layer.step(**given)
    finally:
        torch.set_default_dtype(torch.float32)
    assert [t.dtype for t in found] == [torch.float32] * 2
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


UNDER_O = """
import torch
from carousel_models.cells import Weights
from carousel_models.kernels.library import NativeLayer, NativeTargets, load_library
assert False, "not read under -O"
w = Weights(torch.rand(20, 3), torch.rand(20, 5), None, None)
layer = NativeLayer(load_library(), "lstm", w)
x, h, c = torch.rand(4, 3), torch.rand(4, 5), torch.rand(4, 5)
slots = torch.arange(4)
write = NativeTargets(load_library(), [h]).write
for bad in (
    lambda: layer.step(x.bfloat16(), h, c),
    lambda: layer.step(x[:, :1], h, c),
    lambda: layer.step(x, h[:1], c),
    lambda: layer.step(x, None, c),
    lambda: layer.step(x, h, None),
    lambda: layer.step(x, h, c, slots.int()),
    lambda: layer.step(x, h, c, slots[:1]),
    lambda: write(slots, (c[:1],)),
    lambda: write(slots.int(), (c,)),
    lambda: NativeTargets(load_library(), [h.T]),
):
    try:
        bad()
    except (TypeError, ValueError):
        print("refused")
"""


@pytest.mark.usefixtures("native")
def test_they_are_refused_without_assertions_as_well() -> None:
    done = subprocess.run(
        [sys.executable, "-O", "-c", UNDER_O], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["refused"] * 10, done.stderr
