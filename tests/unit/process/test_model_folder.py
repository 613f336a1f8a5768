"""One bad package keeps neither the good ones from starting nor itself from being named."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from tests.unit.models.custom_modules import Cell, Mixes
from torch import nn

from carousel_models import PackageError, create, save
from carousel_models.spec import CustomSpec, StateDeclaration
from carousel_server.process.config import Settings
from carousel_server.process.model_folder import load_models, read_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A good package, and bad ones of several kinds."""
    for name in ("good", "cut", "renamed", "text"):
        create(name, hidden=4, input="features:2", output=1, dir=tmp_path)
    (tmp_path / "cut" / "model.safetensors").write_bytes(b"short")
    (tmp_path / "renamed").rename(tmp_path / "folder")
    (tmp_path / "folder" / "probe.safetensors").unlink()
    (tmp_path / "text" / "manifest.json").write_text("{")
    return tmp_path


def test_the_good_ones_are_loaded_and_the_others_named(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        loaded = load_models(Settings(models=folder), "cpu")
    assert [model.manifest.name for model in loaded.models] == ["good"]
    assert set(loaded.refused) == {"cut", "renamed", "text"}
    assert "not a safetensors file" in loaded.refused["cut"]
    assert "probe.safetensors is missing" in loaded.refused["renamed"]
    said = [record.getMessage() for record in caplog.records]
    assert sum("is refused and not served" in line for line in said) == 3
    assert "3 of 4 packages" in said[-1]


def test_refuse_ends_the_start(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.ERROR),
        pytest.raises(PackageError, match=r"not a safetensors file.*\(2 more are refused"),
    ):
        load_models(Settings(models=folder, bad_models="refuse"), "cpu")
    assert len(caplog.records) == 3


@pytest.mark.parametrize("bad_models", ["skip", "refuse"])
def test_without_a_good_one_there_is_no_start(tmp_path: Path, bad_models: str) -> None:
    create("cut", hidden=4, dir=tmp_path)
    (tmp_path / "cut" / "model.safetensors").unlink()
    with pytest.raises(PackageError, match=r"model.safetensors is missing; copy the whole package"):
        load_models(Settings(models=tmp_path, bad_models=bad_models), "cpu")


def test_of_two_with_one_name_neither_is_served(tmp_path: Path) -> None:
    for name in ("twin", "good"):
        create(name, hidden=4, dir=tmp_path)
    (tmp_path / "twin").rename(tmp_path / "backup")
    create("twin", hidden=4, seed=1, dir=tmp_path)
    loaded = load_models(Settings(models=tmp_path), "cpu")
    assert [model.manifest.name for model in loaded.models] == ["good"]
    assert "twin and" in loaded.refused["twin"]
    assert f"{tmp_path}/backup are both named 'twin'; rename" in loaded.refused["twin"]


def test_a_package_that_may_not_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from carousel_server.process import model_folder

    real = model_folder.load

    def load(package: Path, **options: object) -> object:
        if package.name == "good":
            raise PermissionError(13, "Permission denied", str(package))
        if package.name == "cut":
            raise RuntimeError("CUDA out of memory.\nTried to allocate")
        return real(package, **options)  # type: ignore[arg-type]

    create("fine", hidden=4, dir=folder)
    monkeypatch.setattr(model_folder, "load", load)
    refused = read_folder(Settings(models=folder), "cpu").refused
    assert "good cannot be read: Permission denied; give the server's user" in refused["good"]
    assert "cut cannot be loaded: CUDA out of memory.; choose another" in refused["cut"]


def custom(folder: Path, kind: type[Cell]) -> str:
    """A package of a custom module, and the module's import name."""
    name = f"tests.unit.models.custom_modules:{kind.__name__}"
    spec = CustomSpec(
        module=name,
        kwargs={"width": 3, "out": 4},
        states=(StateDeclaration(name="h", shape=(4,)),),
        width=4,
    )
    save(folder / kind.__name__, stack=kind(3, 4), custom=spec, features=3, head=nn.Linear(4, 2))
    return name


def test_a_server_proves_custom_modules_in_company(tmp_path: Path) -> None:
    """The code of a module may change after its package was saved."""
    allowed = custom(tmp_path, Cell)
    create("good", hidden=4, dir=tmp_path)
    settings = Settings(models=tmp_path, allow_custom=(allowed,))
    assert len(load_models(settings, "cpu").models) == 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Cell, "step", even_only)
        refused = load_models(settings, "cpu").refused
    assert "an odd batch" in refused["Cell"]
    with pytest.raises(PackageError, match="other numbers in a batch"):
        custom(tmp_path, Mixes)


def even_only(self: Cell, x: object, state: tuple[object, ...]) -> object:
    """A step as a careless change leaves it."""
    if len(x) > 1 and len(x) % 2:  # type: ignore[arg-type]
        raise ValueError("an odd batch")
    h = self.cell(x, state[0])
    return h, (h,)
