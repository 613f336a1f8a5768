"""The path of every imported file, with readers of this test's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from carousel_models import PackageError, check, import_file, load
from carousel_models.importing import Imported, NoOriginalError, Reader
from carousel_models.spec import Architecture, FeaturesInput, uniform_stack
from carousel_models.tensors import expected_tensors


def layer(seed: int = 0) -> torch.nn.GRU:
    torch.manual_seed(seed)
    return torch.nn.GRU(3, 4, batch_first=True)


def imported(**changes: Any) -> Imported:
    module = layer()
    parts = {"input": FeaturesInput(width=3), "stack": uniform_stack("gru", 1, 4)}
    names = expected_tensors(Architecture(**parts))
    tensors = {n: getattr(module, f"{n.rsplit('.', 1)[1]}_l0").detach() for n in names}
    return Imported(
        **{"parts": parts, "tensors": tensors, "notes": ("a part was left out",)} | changes
    )


def table(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> dict[str, Reader]:
    """A table with one reader, whose `read` gives `imported(**changes)` and takes `scale`."""

    def read(path: Path, scale: float = 1.0) -> Imported:
        assert scale in (1.0, 2.0)
        return imported(**changes)

    monkeypatch.setattr(Reader, "load", lambda _: read)
    return {
        ".toy": Reader("toy", options=("scale",)),
        ".other.toy": Reader("toy", options=("gain",)),
    }


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.toy"
    path.write_bytes(b"x")
    return path


def test_a_package_is_named_after_its_file(
    monkeypatch: pytest.MonkeyPatch, file: Path, tmp_path: Path
) -> None:
    notes: list[str] = []
    written = import_file(
        file, dir=tmp_path / "out", note=notes.append, readers=table(monkeypatch), scale=2.0
    )
    assert (written.name, written.description) == ("model", "imported from model.toy")
    assert check(tmp_path / "out/model").ok
    assert notes == ["a part was left out"]
    other = import_file(file, dir=tmp_path / "out", name="b", readers=table(monkeypatch))
    assert other.fingerprint == written.fingerprint


def test_the_original_s_rows_become_the_probe(
    monkeypatch: pytest.MonkeyPatch, file: Path, tmp_path: Path
) -> None:
    module = layer()
    notes: list[str] = []
    readers = table(monkeypatch, original=lambda: module, notes=())
    import_file(file, dir=tmp_path, check=True, note=notes.append, readers=readers)
    assert notes == ["the package gives the original's rows"]
    from safetensors.torch import load_file

    probe = load_file(tmp_path / "model/probe.safetensors")
    assert torch.equal(probe["raw"], module(probe["input"][None].expand(3, -1, -1))[0][0])
    assert load(tmp_path / "model").manifest.hidden == 4


def test_a_package_that_differs_from_its_original_is_not_written(
    monkeypatch: pytest.MonkeyPatch, file: Path, tmp_path: Path
) -> None:
    readers = table(monkeypatch, original=lambda: layer(seed=1))
    with pytest.raises(PackageError, match="differs from step 0 on"):
        import_file(file, dir=tmp_path, check=True, readers=readers)
    assert not (tmp_path / "model").exists()


def test_an_original_that_cannot_be_run_is_a_note(
    monkeypatch: pytest.MonkeyPatch, file: Path, tmp_path: Path
) -> None:
    def absent() -> Any:
        raise NoOriginalError("keras is not installed")

    notes: list[str] = []
    readers = table(monkeypatch, original=absent, notes=())
    import_file(file, dir=tmp_path, check=True, note=notes.append, readers=readers)
    import_file(
        file, dir=tmp_path, check=True, overwrite=True, note=notes.append,
        readers=table(monkeypatch, notes=()),
    )  # fmt: skip
    assert notes == [
        "not compared with the original: keras is not installed",
        "not compared with the original: the file holds weights alone, and no model that can be run",
    ]


def test_the_longest_ending_chooses_the_reader(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "M.OTHER.toy").write_bytes(b"x")
    with pytest.raises(
        PackageError,
        match=r"^.other.toy files have no option --scale; leave it out, it is one of .toy files$",
    ):
        import_file(tmp_path / "M.OTHER.toy", readers=table(monkeypatch), scale=2.0)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("m.txt", {}, r"m.txt is of no kind .*ends in .other.toy, .toy, or"),
        (
            "m.toy",
            {"speed": 1},
            r".toy files have no option --speed; leave it out, no reader takes it",
        ),
        ("folder.toy", {}, r"folder.toy is a folder; give the file"),
        ("my model.toy", {}, r"does not make a package named 'my model': .*"),
    ],
)
def test_refusals(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    name: str,
    options: dict[str, Any],
    message: str,
) -> None:
    (tmp_path / "folder.toy").mkdir()
    (tmp_path / "my model.toy").write_bytes(b"x")
    (tmp_path / "m.toy").write_bytes(b"x")
    (tmp_path / "m.txt").write_bytes(b"x")
    with pytest.raises(PackageError, match=message):
        import_file(tmp_path / name, dir=tmp_path / "out", readers=table(monkeypatch), **options)
    assert not (tmp_path / "out").exists()


def test_a_missing_file_is_an_error_of_the_system(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError):
        import_file(tmp_path / "none.toy", readers=table(monkeypatch))


def test_a_missing_extra_is_named(tmp_path: Path) -> None:
    readers = {".toy": Reader("toy", needs=("no_such_module", "json"))}
    (tmp_path / "m.toy").write_bytes(b"x")
    with pytest.raises(
        PackageError,
        match=r"needs no_such_module, not installed here; pip install 'carousel-serving\[import\]'$",
    ):
        import_file(tmp_path / "m.toy", readers=readers)


def test_an_existing_package_is_kept(
    monkeypatch: pytest.MonkeyPatch, file: Path, tmp_path: Path
) -> None:
    import_file(file, dir=tmp_path, readers=table(monkeypatch))
    with pytest.raises(PackageError, match="exists"):
        import_file(file, dir=tmp_path, readers=table(monkeypatch))


def test_a_missing_file_is_named_before_what_its_reader_lacks(tmp_path: Path) -> None:
    needy = {".onnx": Reader("programs", needs=("no_such_package",))}
    with pytest.raises(FileNotFoundError):
        import_file(tmp_path / "no.onnx", dir=tmp_path, readers=needy)
    (tmp_path / "is.onnx").touch()
    with pytest.raises(PackageError, match="no_such_package"):
        import_file(tmp_path / "is.onnx", dir=tmp_path, readers=needy)
