"""`save(initial=…, initials=…)`: what is given is what a session begins with, or refused by name."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from carousel_models import Manifest, PackageError, load, save
from carousel_models.spec import CustomSpec, StateDeclaration
from tests.unit.models.custom_modules import Everything

NAME = "tests.unit.models.custom_modules:Everything"
STATES = (
    StateDeclaration(name="half", shape=(2,), dtype="float16", initial=0.5),
    StateDeclaration(name="brain", shape=(2,), dtype="bfloat16"),
    StateDeclaration(name="double", shape=(), dtype="float64", initial=1e-300),
    StateDeclaration(name="small", shape=(3,), dtype="int32"),
    StateDeclaration(name="large", shape=(), dtype="int64", initial=1 << 53),
    StateDeclaration(name="flag", shape=(2, 2), dtype="bool", initial=True),
    StateDeclaration(name="phase", shape=(2,), dtype="complex64"),
    StateDeclaration(name="lowest", shape=(2,), finite=False),
)


def save_everything(path: Path, **given: Any) -> Manifest:
    spec = CustomSpec(module=NAME, states=STATES, width=2)
    return save(path, stack=Everything(), custom=spec, features=2, **given)


def begun(path: Path, name: str = "", **options: Any) -> dict[str, Tensor]:
    model = load(path, **options)
    return {
        spec.name: tensor[1]
        for spec, tensor in zip(model.state_specs, model.initial_state(2, name), strict=True)
    }


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


H, C = torch.arange(6.0).reshape(2, 1, 3), -torch.arange(6.0).reshape(2, 1, 3)


@pytest.mark.parametrize(
    ("given", "c_given"),
    [
        ((H, C), True),
        ((H[:, 0], C[:, 0]), True),
        ((H.numpy(), C.double()), True),
        ((nn.Parameter(H), nn.Parameter(C)), True),
        (H, False),
        ({"0.h": H[0], "1.h": H[1, 0], "1.c": C[1]}, False),
    ],
    ids=["torch", "no batch", "arrays", "parameters", "h alone", "by name"],
)
def test_layers_of_an_lstm(tmp_path: Path, given: Any, c_given: bool) -> None:
    written = save(tmp_path / "m", stack=nn.LSTM(2, 3, 2), initial=given)
    found = begun(tmp_path / "m")
    assert torch.equal(found["0.h"], H[0, 0])
    assert torch.equal(found["1.h"], H[1, 0])
    assert torch.equal(found["0.c"], C[0, 0] if c_given else torch.zeros(3))
    if c_given:
        assert written.initial[0].stored == ("0.h", "0.c", "1.h", "1.c")
        stored = load_file(tmp_path / "m" / "model.safetensors")
        assert torch.equal(stored["initial.1.c"], C[1, 0])


@pytest.mark.parametrize("shape", [(3,), (1, 3), (1, 1, 3)])
def test_a_single_layer_takes_torchs_shapes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    save(tmp_path / "m", stack=nn.GRU(2, 3), initial=torch.arange(3.0).reshape(shape))
    assert begun(tmp_path / "m")["0.h"].tolist() == [0, 1, 2]


def test_a_model_of_16_bits_keeps_its_state_in_float32(tmp_path: Path) -> None:
    exact = torch.tensor([1.0001, -3.00001, 0.1])
    save(tmp_path / "m", stack=nn.GRU(2, 3), initial=exact, dtype="bfloat16")
    assert torch.equal(begun(tmp_path / "m")["0.h"], exact)


def test_every_type_and_number(tmp_path: Path) -> None:
    save_everything(tmp_path / "m")
    found = begun(tmp_path / "m", allow_custom=[NAME])
    assert [str(tensor.dtype) for tensor in found.values()] == [f"torch.{s.dtype}" for s in STATES]
    assert {name: tensor.tolist() for name, tensor in found.items()} == {
        "half": [0.5, 0.5],
        "brain": [0, 0],
        "double": 1e-300,
        "small": [0, 0, 0],
        "large": 1 << 53,
        "flag": [[True, True], [True, True]],
        "phase": [0, 0],
        "lowest": [0, 0],
    }


def test_every_type_from_a_stored_tensor(tmp_path: Path) -> None:
    given = {
        "half": [1.5, -2.0],
        "brain": torch.tensor([1.0, 3.0]),
        "double": math.pi,
        "small": np.array([1, -2, 3], np.int64),
        "large": (1 << 62) + 1,
        "flag": np.array([[True, False], [False, True]]),
        "phase": torch.tensor([1 + 2j, -3j]),
        "lowest": float("inf"),
    }
    save_everything(tmp_path / "m", initial=given)
    found = begun(tmp_path / "m", allow_custom=[NAME])
    assert {name: tensor.tolist() for name, tensor in found.items()} == {
        "half": [1.5, -2.0],
        "brain": [1.0, 3.0],
        "double": math.pi,
        "small": [1, -2, 3],
        "large": (1 << 62) + 1,
        "flag": [[True, False], [False, True]],
        "phase": [1 + 2j, -3j],
        "lowest": [math.inf, math.inf],
    }


def test_named_states_differ_from_the_default_in_what_they_give(tmp_path: Path) -> None:
    voices = {"anna": {"1.h": H[1]}, "otto.2": (H, C)}
    written = save(tmp_path / "m", stack=nn.LSTM(2, 3, 2), initial=(C, C), initials=voices)
    assert written.initial_names == ("anna", "otto.2")
    assert list(load(tmp_path / "m").initial) == ["", "anna", "otto.2"]
    assert torch.equal(begun(tmp_path / "m", "anna")["1.h"], H[1, 0])
    assert torch.equal(begun(tmp_path / "m", "anna")["0.h"], C[0, 0])
    assert torch.equal(begun(tmp_path / "m", "otto.2")["1.c"], C[1, 0])
    stored = load_file(tmp_path / "m" / "model.safetensors")
    assert {name for name in stored if name.startswith("initial.anna")} == {"initial.anna.1.h"}
    with pytest.raises(PackageError, match=r"no initial state 'eve', only anna, otto\.2"):
        load(tmp_path / "m").initial_state(1, "eve")


def test_names_without_a_default_begin_with_zeros(tmp_path: Path) -> None:
    save(tmp_path / "m", stack=nn.GRU(2, 3), initials={"anna": 7 * torch.ones(1, 1, 3)})
    assert begun(tmp_path / "m")["0.h"].tolist() == [0, 0, 0]
    assert begun(tmp_path / "m", "anna")["0.h"].tolist() == [7, 7, 7]


GRUS: dict[str, Any] = {"stack": [nn.GRU(2, 3), nn.GRU(3, 4)]}


@pytest.mark.parametrize(
    ("parts", "given", "message"),
    [
        ({"stack": nn.GRU(2, 3)}, torch.zeros(2, 1, 3), r"has shape \[2, 1, 3\]; give \[1, 1, 3\]"),
        ({"stack": nn.GRU(2, 3)}, torch.zeros(1, 5, 3), r"has shape \[1, 5, 3\]"),
        ({"stack": nn.GRU(2, 3)}, (torch.zeros(3),) * 2, "has 2 parts, but the model has the states h"),
        (GRUS, torch.zeros(2, 1, 3), "states 0.h, 1.h, whose shapes differ; give values by name"),
        ({"stack": nn.GRU(2, 3)}, {"h": 0}, "names a state 'h', which the .*; it has 0.h"),
        ({"stack": nn.GRU(2, 3)}, {"0.h": torch.zeros(4)}, r"\['0.h'\] has shape \[4\]; give \[3\]"),
        ({"stack": nn.GRU(2, 3)}, torch.tensor([0, math.nan, 0]), "holds NaN, infinity or numbers too"),
        ({"stack": nn.GRU(2, 3)}, {"0.h": 1e300}, "too large for float32"),
        ({"stack": nn.GRU(2, 3)}, {"0.h": 1j}, "is complex, but the state is float32"),
        ({"stack": nn.GRU(2, 3)}, {"0.h": "zero"}, "cannot become a tensor"),
        ({"stack": nn.GRU(2, 3)}, torch.zeros(3, device="meta"), "meta device"),
        ({"stack": nn.GRU(2, 3, bidirectional=True)}, torch.zeros(2, 1, 3), "begin with zeros"),
    ],
)  # fmt: skip
def test_what_is_refused(tmp_path: Path, parts: Any, given: Any, message: str) -> None:
    with pytest.raises(PackageError, match=message):
        save(tmp_path / "m", **parts, initial=given)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("state", "value", "message"),
    [
        ("small", 0.5, "numbers that a state of int32 cannot have"),
        ("small", 1 << 40, "numbers that a state of int32 cannot have"),
        ("flag", 2, "numbers that a state of bool cannot have"),
        ("half", 1e6, "too large for float16"),
        ("lowest", math.nan, "holds NaN"),
        ("phase", complex(0, math.inf), "infinity"),
    ],
)
def test_values_that_a_type_cannot_hold(
    tmp_path: Path, state: str, value: Any, message: str
) -> None:
    with pytest.raises(PackageError, match=message):
        save_everything(tmp_path / "m", initial={state: value})


def test_names_that_are_refused(tmp_path: Path) -> None:
    for names, message in (({"": H}, "give that one as initial="), ({"a b": H}, "name")):
        with pytest.raises(PackageError, match=message):
            save(tmp_path / "m", stack=nn.LSTM(2, 3, 2), initials=names)


class Learned(nn.Module):
    """A model as a user has it, with a learned h0 and c0."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = nn.LSTM(2, 3, 2, batch_first=True)
        self.h0, self.c0 = (nn.Parameter(torch.randn(2, 1, 3)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        state = tuple(part.expand(2, len(x), 3).contiguous() for part in (self.h0, self.c0))
        return self.stack(x, state)[0]  # type: ignore[no-any-return]


def test_a_reference_with_a_learned_state_agrees(tmp_path: Path) -> None:
    model = Learned()
    save(tmp_path / "m", stack=model.stack, initial=(model.h0, model.c0), reference=model)
    with pytest.raises(PackageError, match="a learnable initial state \\(give it as initial=\\)"):
        save(tmp_path / "n", stack=model.stack, reference=model)
    with pytest.raises(PackageError, match="differs from step 0 on"):
        save(tmp_path / "n", stack=model.stack, initial=model.h0, reference=model)


def test_a_module_may_hold_what_is_saved_as_its_initial_state(tmp_path: Path) -> None:
    stack = nn.GRU(2, 3)
    stack.register_parameter("h0", nn.Parameter(torch.ones(1, 1, 3)))
    with pytest.raises(
        PackageError, match=r"the stack holds h0, .* give a learnable .* as initial="
    ):
        save(tmp_path / "m", stack=stack)
    save(tmp_path / "m", stack=stack, initial=stack.h0)
    assert begun(tmp_path / "m")["0.h"].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("name", "value"), [("initial.0.h", torch.zeros(4)), ("initial.0.h", torch.zeros(3).double())]
)
def test_a_stored_tensor_of_another_kind_is_refused(
    tmp_path: Path, name: str, value: Tensor
) -> None:
    save(tmp_path / "m", stack=nn.GRU(2, 3), initial=torch.ones(3))
    file = tmp_path / "m" / "model.safetensors"
    save_file(load_file(file) | {name: value}, file)
    with pytest.raises(PackageError, match=r"initial\.0\.h is"):
        load(tmp_path / "m")


def test_a_changed_initial_state_is_noticed(tmp_path: Path) -> None:
    save(tmp_path / "m", stack=nn.GRU(2, 3), initial=torch.ones(3))
    file = tmp_path / "m" / "model.safetensors"
    save_file(load_file(file) | {"initial.0.h": torch.full((3,), 2.0)}, file)
    with pytest.raises(PackageError, match="fingerprint"):
        load(tmp_path / "m")
    manifest = json.loads((tmp_path / "m" / "manifest.json").read_text())
    assert manifest["initial"] == [{"name": "", "stored": ["0.h"]}]
