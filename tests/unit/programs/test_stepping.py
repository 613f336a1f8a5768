"""A program in the engine's hands: slots, batches, copies, bad results, and rows that are not finite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from carousel_models import PackageError, RecurrentModel, import_file, load
from carousel_models.importing import Imported
from carousel_models.importing.programs import read

from .graphs import HIDDEN, IN, Step, write_onnx, write_pt2, write_script

SHAPES = ("x=B,3", "h=1,B,4")


class InPlace(Step):
    """Writes into its inputs, and gives one of them back."""

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        h.copy_(torch.tanh(x @ self.w + h[0] @ self.u)[None])
        x.zero_()
        return h[0] @ self.v, h


def written(kind: str, folder: Path, module: Step | None = None) -> Path:
    if kind == "onnx":
        return write_onnx(folder / "step.onnx", axis=1)
    if kind == "torchscript":
        return write_script(folder / "step.ts", module or Step())
    return write_pt2(folder / "step.pt2", module or Step())


def model_of(file: Path, **options: Any) -> RecurrentModel:
    if file.suffix == ".ts":
        options["shape"] = SHAPES
    import_file(file, name="m", dir=file.parent / "out", **options)
    return load(file.parent / "out" / "m")


@pytest.mark.parametrize("kind", ["onnx", "torchscript", "pt2"])
def test_a_step_reads_the_rows_of_its_slots_and_changes_nothing(tmp_path: Path, kind: str) -> None:
    model = model_of(written(kind, tmp_path))
    slab = tuple(torch.randn(7, *spec.shape) for spec in model.state_specs)
    before = [tensor.clone() for tensor in slab]
    slots, x = torch.tensor([5, 0, 3]), torch.randn(3, IN)
    with torch.inference_mode():
        y, new = model.step(x, slab, slots)
        own, after = model.step(x, tuple(tensor[slots] for tensor in slab))
        alone = [
            model.step(x[n : n + 1], tuple(t[s : s + 1] for t in slab))
            for n, s in enumerate([5, 0, 3])
        ]
    assert torch.equal(y, own)
    assert all(map(torch.equal, new, after))
    assert all(map(torch.equal, slab, before))
    torch.testing.assert_close(y, torch.cat([row for row, _ in alone]), rtol=0, atol=1e-6)
    assert y.is_contiguous()
    assert all(t.is_contiguous() and t.shape == (3, 1, HIDDEN) for t in new)


@pytest.mark.parametrize("kind", ["torchscript", "pt2"])
def test_a_step_that_writes_into_its_inputs_reaches_copies_only(tmp_path: Path, kind: str) -> None:
    model = model_of(written(kind, tmp_path, InPlace()))
    plain_folder = tmp_path / "plain"
    plain_folder.mkdir()
    plain = model_of(written(kind, plain_folder))
    state = tuple(torch.randn(4, *spec.shape) for spec in model.state_specs)
    x = torch.randn(4, IN)
    kept, row = [tensor.clone() for tensor in state], x.clone()
    with torch.inference_mode():
        y, first = model.step(x, state)
        saved = [tensor.clone() for tensor in first]
        model.step(x, first)
        expected, after = plain.step(x, state)
    assert torch.equal(x, row)
    assert all(map(torch.equal, state, kept))
    assert all(map(torch.equal, first, saved))
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(first[0], after[0], rtol=0, atol=1e-6)


def test_all_states_are_checked_for_infinities(tmp_path: Path) -> None:
    model = model_of(written("onnx", tmp_path), context=1)
    assert model.unseen_states == (0, 1)
    assert not model.batch_invariant


def test_a_result_of_another_shape_is_refused(tmp_path: Path) -> None:
    """The manifest was made by hand, and does not say what the file does."""
    imported: Imported = read(written("onnx", tmp_path))
    (part,) = imported.parts["parts"]
    wrong = part.model_copy(update={"output": part.output.model_copy(update={"shape": (3,)})})
    from carousel_models.spec import Manifest
    from carousel_models.writing import write

    manifest = Manifest(
        name="m", fingerprint="0" * 64, input=imported.parts["input"], parts=(wrong,)
    )
    with pytest.raises(PackageError, match=r"gave 'y' as torch\.float32\[1, 2\], but .* declares"):
        write(tmp_path / "m", manifest, {}, files=imported.files)
    assert not (tmp_path / "m").exists()


class Mixing(Step):
    """Rows that depend on other rows."""

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(x @ self.w + h[0] @ self.u)
        return h @ self.v + 0.1 * x.mean(), h[None]


def test_rows_that_depend_on_others_run_alone_or_are_refused(tmp_path: Path) -> None:
    """The import finds it and takes one session a call. A manifest that says otherwise is not loaded."""
    file = written("torchscript", tmp_path, Mixing())
    notes: list[str] = []
    import_file(file, name="m", dir=tmp_path / "out", shape=SHAPES, note=notes.append)
    assert any("has other numbers" in note for note in notes)
    imported = read(file, shape=SHAPES)
    (part,) = imported.parts["parts"]
    assert part.batch == "one"
    from carousel_models.spec import Manifest
    from carousel_models.writing import write

    port = part.input.model_copy(update={"shape": (3,), "axis": 0})
    state = part.carried[0].model_copy(update={"shape": (1, 4), "axis": 1})
    out = part.output.model_copy(update={"shape": (2,), "axis": 0})
    batched = part.model_copy(
        update={"batch": "symbolic", "input": port, "carried": (state,), "output": out}
    )
    manifest = Manifest(
        name="m", fingerprint="0" * 64, input=imported.parts["input"], parts=(batched,)
    )
    with pytest.raises(
        PackageError, match=r"program 'step\.ts' gives a row other numbers in a batch"
    ):
        write(tmp_path / "m", manifest, {}, files=imported.files)


def remade(tmp_path: Path, **changes: Any) -> None:
    """Writes a package of the ONNX step whose manifest differs from what the import found."""
    from carousel_models.spec import Manifest
    from carousel_models.writing import write

    imported = read(written("onnx", tmp_path))
    (part,) = imported.parts["parts"]
    fields: dict[str, Any] = {
        "name": "m",
        "fingerprint": "0" * 64,
        "input": imported.parts["input"],
    }
    manifest = Manifest(**fields, parts=(part.model_copy(update=changes),))
    write(tmp_path / "m", manifest, {}, files=imported.files)


def test_a_manifest_that_names_other_ports_is_refused(tmp_path: Path) -> None:
    from carousel_models.program_spec import ProgramConstant, ProgramPort

    with pytest.raises(PackageError, match=r"program 'step\.onnx'"):
        remade(tmp_path, output=ProgramPort(name="nothing", shape=(2,)))
    wrong = ProgramConstant(name="k", value=300, dtype="uint8")
    with pytest.raises(PackageError, match=r"program 'step\.onnx' .*import the model again"):
        remade(tmp_path, constants=(wrong,))
