"""Custom modules in company: what keeps its word is served right, the rest is refused by name."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from carousel_models import Manifest, PackageError, check, load, save
from carousel_models.model import RecurrentModel
from carousel_models.spec import CustomSpec, StateDeclaration
from tests.unit.models import custom_modules
from tests.unit.models.custom_modules import (
    ArrayState,
    BatchOf32,
    BatchOne,
    Cell,
    ComplexRows,
    CountsSteps,
    Drawing,
    Dropping,
    EvenOnly,
    Growing,
    InPlace,
    InPlaceInput,
    KeepsState,
    Mixes,
    MixesALittle,
    OneBuffer,
    Scaled,
    SparseRows,
    Trained,
    Transposed,
)

MODULE = "tests.unit.models.custom_modules"


def spec_of(kind: type[nn.Module], **changes: Any) -> CustomSpec:
    fields = {
        "module": f"{MODULE}:{kind.__name__}",
        "kwargs": {"width": 3, "out": 4},
        "states": (StateDeclaration(name="h", shape=(4,)),),
        "width": 4,
    }
    return CustomSpec(**fields | changes)


def save_cell(path: Path, given: nn.Module, **changes: Any) -> Manifest:
    return save(path, stack=given, custom=spec_of(type(given), **changes), features=3)


def loaded(path: Path, kind: type[nn.Module]) -> RecurrentModel:
    return load(path, allow_custom={f"{MODULE}:{kind.__name__}"})


def plain_loop(module: Any, x: Tensor) -> Tensor:
    """[T, 3] → [T, 4], each step's output copied before the next step runs."""
    state: tuple[Tensor, ...] = (torch.zeros(1, 4),)
    rows = []
    for row in x:
        y, state = module.step(row[None].clone(), state)
        rows.append(y.clone())
    return torch.cat(rows).detach()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@torch.inference_mode()  # as a server runs it
@pytest.mark.parametrize("kind", [Cell, InPlace, InPlaceInput, OneBuffer, Scaled, Transposed])
def test_what_keeps_its_word_equals_the_plain_loop(tmp_path: Path, kind: type[Cell]) -> None:
    module = kind(3, 4)
    save_cell(tmp_path / "m", module)
    model = loaded(tmp_path / "m", kind)
    x = torch.randn(3, 6, 3)
    given = x.clone()
    expected = torch.stack([plain_loop(module, row) for row in x])
    whole, end = model.sequence(x, torch.tensor([6, 6, 6]))
    torch.testing.assert_close(whole, expected)
    torch.testing.assert_close(x, given, rtol=0, atol=0)
    state, rows = model.initial_state(3), []
    for t in range(6):
        before = tuple(tensor.clone() for tensor in state)
        raw, after = model.step(x[:, t], state)
        for tensor, copy in zip(state, before, strict=True):
            torch.testing.assert_close(tensor, copy, rtol=0, atol=0)
        assert all(tensor.is_contiguous() for tensor in (raw, *after))
        state = after
        rows.append(raw)
    torch.testing.assert_close(torch.stack(rows, dim=1), expected)
    torch.testing.assert_close(state, end)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            Mixes,
            r"Mixes' gives a row other numbers in a batch of \d+ than alone \(step 0, difference",
        ),
        (MixesALittle, r"MixesALittle' gives a row other numbers in a batch"),
        (
            BatchOne,
            r"BatchOne' failed on its probe: .* in a batch of 2; its step works for one row",
        ),
        (
            EvenOnly,
            r"ValueError\('an odd batch'\) in a batch of [37]; its step works for one row only",
        ),
        (BatchOf32, r"in a batch of 33; its step works"),
        (
            KeepsState,
            r"KeepsState' gives other numbers when the same steps run again .* or keeps state",
        ),
        (CountsSteps, r"CountsSteps' changes its own tensor 'calls' while it steps"),
        (Dropping, r"Dropping' gives other numbers when the same steps run again .* draws random"),
        (Drawing, r"Drawing' gives other numbers when the same steps run again .* draws random"),
        (ComplexRows, r"y of torch.complex64, whose imaginary part would be lost; give real rows"),
        (SparseRows, r"step gave a torch.sparse_coo; y and each state must be a dense tensor"),
        (ArrayState, r"step gave a ndarray; y and each state must be a dense tensor"),
        (Growing, r"Growing' gives NaN or infinity at step 3"),
    ],
)
def test_what_breaks_its_word_is_refused(tmp_path: Path, kind: type[Cell], message: str) -> None:
    with pytest.raises(PackageError, match=message):
        save_cell(tmp_path / "m", kind(3, 4))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kind", "message"), [(Mixes, "other numbers in a batch"), (BatchOne, "in a batch of 2")]
)
def test_a_package_of_such_a_module_is_not_loaded(
    tmp_path: Path, kind: type[Cell], message: str
) -> None:
    """As written by a version of the class that kept its word."""
    save_cell(tmp_path / "m", Cell(3, 4))
    path = tmp_path / "m" / "manifest.json"
    text = path.read_text().replace(":Cell", f":{kind.__name__}")
    (tmp_path / "other").mkdir()
    module = kind(3, 4)
    assert module.state_dict().keys() == Cell(3, 4).state_dict().keys()
    path.write_text(text)
    rename_fingerprint(tmp_path / "m")
    allowed = {f"{MODULE}:{kind.__name__}"}
    report = check(tmp_path / "m", allow_custom=allowed)
    assert not report.ok
    with pytest.raises(PackageError, match=message):
        load(tmp_path / "m", allow_custom=allowed)


def rename_fingerprint(package: Path) -> None:
    """The fingerprint covers the import name; the probe that of a single row."""
    import json

    from safetensors.torch import load_file, save_file

    from carousel_models import read_manifest
    from carousel_models.weights import fingerprint

    manifest = read_manifest(package)
    tensors = load_file(package / "model.safetensors")
    fields = json.loads((package / "manifest.json").read_text())
    fields["fingerprint"] = fingerprint(manifest.architecture, tensors)
    (package / "manifest.json").write_text(json.dumps(fields))
    assert manifest.custom is not None
    kind = getattr(custom_modules, manifest.custom.module.split(":")[1])
    module = kind(3, 4).eval().requires_grad_(False)
    module.load_state_dict({name.removeprefix("custom."): t for name, t in tensors.items()})
    probe = load_file(package / "probe.safetensors")
    probe["raw"] = plain_loop(module, probe["input"])
    save_file(probe, package / "probe.safetensors")


def test_a_module_in_train_mode_is_saved_as_it_is_served(tmp_path: Path) -> None:
    module = Trained(3, 4).train()
    module.norm.running_mean = torch.tensor([1.0, -2.0, 0.5])
    module.drop.eval()
    before = torch.get_rng_state()
    save_cell(tmp_path / "m", module)
    assert torch.equal(torch.get_rng_state(), before)
    assert (module.training, module.norm.training, module.drop.training) == (True, True, False)
    assert int(module.norm.num_batches_tracked or 0) == 0
    model = loaded(tmp_path / "m", Trained)
    x = torch.randn(5, 3)
    raw, _ = model.sequence(x[None], torch.tensor([5]))
    torch.testing.assert_close(raw[0], plain_loop(module.eval(), x))


def test_an_attribute_that_a_server_would_not_have(tmp_path: Path) -> None:
    module = Scaled(3, 4)
    module.scale = 2.0
    with pytest.raises(PackageError, match=r"differ at step 0 by .* neither in kwargs nor in"):
        save_cell(tmp_path / "m", module)
    save_cell(tmp_path / "m", module, kwargs={"width": 3, "out": 4, "scale": 2.0})
    x = torch.randn(5, 3)
    raw, _ = loaded(tmp_path / "m", Scaled).sequence(x[None], torch.tensor([5]))
    torch.testing.assert_close(raw[0], plain_loop(module, x))


def test_a_hook_inside_a_custom_module(tmp_path: Path) -> None:
    module = Cell(3, 4)
    module.cell.register_forward_pre_hook(lambda _, args: (2 * args[0], *args[1:]))
    with pytest.raises(PackageError, match=r"differ at step 0 by .* a hook"):
        save_cell(tmp_path / "m", module)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"module": f"{MODULE}:LeakySum"}, f"names .*LeakySum.* is at {MODULE}:Cell; say module="),
        ({"module": "elsewhere:Cell"}, f"class of the given module is at {MODULE}:Cell"),
        ({"kwargs": {"width": 3}}, "cannot be made: TypeError.*correct its kwargs"),
        (
            {"kwargs": {"width": 3, "out": 5}},
            r"has other tensors .* cell.bias_hh: .*12.* instead of",
        ),
    ],
)
def test_the_server_must_find_the_same_class(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(PackageError, match=message):
        save_cell(tmp_path / "m", Cell(3, 4), **changes)
    assert not list(tmp_path.iterdir())


def test_a_class_by_the_name_of_another_module_that_has_it(tmp_path: Path) -> None:
    save_cell(tmp_path / "m", Cell(3, 4), module=f"{__name__}:Cell")
    assert load(tmp_path / "m", allow_custom={f"{__name__}:Cell"}).manifest.cell == "custom"


def test_a_class_of_the_running_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Local(Cell):
        """As a script or a notebook would have it."""

    Local.__module__, Local.__qualname__ = "__main__", "Local"
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "/home/me/gestures.py", raising=False)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None, raising=False)
    save_cell(tmp_path / "script", Local(3, 4), module="gestures:Local")
    with pytest.raises(PackageError, match=r"running program .* move the class to a module, a.py"):
        save_cell(tmp_path / "m", Local(3, 4), module="a:Local")


@pytest.mark.parametrize("kind", [MixesALittle, Scaled])
def test_rounding_of_the_head_hides_nothing(tmp_path: Path, kind: type[Cell]) -> None:
    """A package in bfloat16 keeps its custom module's own types."""
    given: Any = {"custom": spec_of(kind), "features": 3, "head": nn.Linear(4, 2)}
    module = kind(3, 4)
    if kind is Scaled:  # as it should be; what is not in its class is noticed
        save(tmp_path / "m", stack=module, **given, dtype="bfloat16")
        loaded(tmp_path / "m", kind)
        module.cell.register_forward_hook(lambda _, __, h: h * 1.005)
    with pytest.raises(PackageError, match=r"in a batch|differ at step 0 by .* a hook"):
        save(tmp_path / "other", stack=module, **given, dtype="bfloat16")


def test_half_precision_inside_a_custom_module(tmp_path: Path) -> None:
    """Its rows differ between batches by the rounding of its type, which is no mixing."""
    save_cell(tmp_path / "m", custom_modules.Half(3, 4))
    assert loaded(tmp_path / "m", custom_modules.Half).state_bytes == 16


def test_a_module_that_is_not_found_names_the_search_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_cell(tmp_path / "m", Cell(3, 4))
    path = tmp_path / "m" / "manifest.json"
    path.write_text(path.read_text().replace(MODULE, "gestures_nowhere.cells"))
    monkeypatch.setenv("PYTHONPATH", "/opt/models")
    monkeypatch.syspath_prepend(str(tmp_path))
    message = (
        rf"No module named .*; searched in .*{tmp_path}.* \(PYTHONPATH is /opt/models\): .*"
        "PYTHONPATH=FOLDER, the folder that holds gestures_nowhere or gestures_nowhere.py"
    )
    allowed = {"gestures_nowhere.cells:Cell"}
    with pytest.raises(PackageError, match=message):
        load(tmp_path / "m", allow_custom=allowed)
    (tmp_path / "gestures_nowhere").mkdir()
    (tmp_path / "gestures_nowhere" / "cells.py").write_text("import a_library_that_is_nowhere\n")
    with pytest.raises(PackageError, match=r"itself imports .a_library_that_is_nowhere.: install"):
        load(tmp_path / "m", allow_custom=allowed)


def test_what_a_package_cannot_hold_of_a_custom_module(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match=r"holds .cell._extra_state., a dict"):
        save_cell(tmp_path / "m", custom_modules.Extra(3, 4))
    save_cell(tmp_path / "complex", custom_modules.Complex(3, 4))
    assert loaded(tmp_path / "complex", custom_modules.Complex).parameters == 2 * 12 + 84 + 1
