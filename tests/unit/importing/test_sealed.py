"""A comparison with torch's own module runs nothing that a file of torch.export says."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from carousel_models import import_file
from carousel_models.importing.imported import NoOriginalError
from carousel_models.importing.pt2_sealed import sealed
from tests.unit.programs.graphs import Step, write_pt2


class Bomb:
    """Fails the test if anything unpickles it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("the file's code was run",)


def changed(path: Path, name: str, change: Callable[[Any], Any]) -> Path:
    """The archive with a record changed. JSON is parsed for `change`."""
    found = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(found, "w") as new:
        for record in old.namelist():
            data = old.read(record)
            if record.partition("/")[2] == name:
                is_json = name.endswith(".json")
                data = json.dumps(change(json.loads(data))).encode() if is_json else change(data)
            new.writestr(record, data)
    path.write_bytes(found.getvalue())
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_pt2(tmp_path / "step.pt2", Step())


def imported(file: Path) -> list[str]:
    notes: list[str] = []
    import_file(file, name="m", dir=file.parent / "out", check=True, note=notes.append)
    return notes


def bomb_as_torch_saves_it(_: bytes) -> bytes:
    found = io.BytesIO()
    torch.save(Bomb(), found)
    return found.getvalue()


def with_guard(program: Any) -> Any:
    program["guards_code"] = ["__import__('pytest').fail('the guard was run') is None"]
    return program


@pytest.mark.parametrize(
    ("record", "change"),
    [
        ("data/sample_inputs/model.pt", bomb_as_torch_saves_it),
        ("data/sample_inputs/model.pt", lambda _: pickle.dumps(Bomb())),
        ("models/model.json", with_guard),
    ],
    ids=["sample", "plain-pickle", "guard"],
)
def test_a_comparison_leaves_out_what_torch_would_run(
    file: Path, record: str, change: Callable[[Any], Any]
) -> None:
    assert imported(changed(file, record, change))[-1] == "the package gives the original's rows"


def with_size(text: str) -> Callable[[Any], Any]:
    def change(program: Any) -> Any:
        for meta in program["graph_module"]["graph"]["tensor_values"].values():
            for size in meta["sizes"]:
                if "as_expr" in size:
                    size["as_expr"]["expr_str"] = text
        return program

    return change


@pytest.mark.parametrize(
    "text",
    [
        "__import__('pytest').fail('evaluated')",
        "exit()",
        "open('written')",
        "Symbol('s12').__class__",
        "Integer(9)**9**9",
        "(lambda: 0)()",
        "S('exit()')",
    ],
)
def test_a_size_that_is_code_prevents_the_comparison(file: Path, text: str) -> None:
    notes = imported(changed(file, "models/model.json", with_size(text)))
    assert notes[-1].startswith("not compared with the original: torch would evaluate the size")


def with_form(form: dict[str, Any]) -> Callable[[Any], Any]:
    def change(program: Any) -> Any:
        call = program["graph_module"]["module_call_graph"][0]
        call["signature"]["in_spec"] = json.dumps([1, form])
        return program

    return change


@pytest.mark.parametrize(
    "form",
    [
        {"type": "builtins.dict", "children_spec": [],
         "context": '{"__enum__": true, "fqn": "antigravity:x", "name": "y"}'},
        {"type": "collections.defaultdict", "children_spec": [], "context": "{}"},
    ],
)  # fmt: skip
def test_a_form_that_names_a_module_prevents_the_comparison(
    file: Path, form: dict[str, Any]
) -> None:
    notes = imported(changed(file, "models/model.json", with_form(form)))
    assert notes[-1].startswith("not compared with the original: torch would look up the type")


@pytest.mark.parametrize("path", ["opaque_obj_0", "custom_obj_0"])
def test_constants_that_torch_would_unpickle_prevent_the_comparison(file: Path, path: str) -> None:
    """Torch goes by the names of such records, and not by what `use_pickle` says."""
    entry = {"path_name": path, "is_param": False, "use_pickle": False, "tensor_meta": None}
    record = "data/constants/model_constants_config.json"
    changed(file, record, lambda _: {"config": {"thing": entry}})
    with pytest.raises(NoOriginalError, match="would unpickle the constant 'thing'"):
        sealed(file.read_bytes())


def test_records_that_a_step_does_not_need_are_emptied(file: Path) -> None:
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("step/extra/code.py", "raise SystemExit")
    with zipfile.ZipFile(sealed(file.read_bytes())) as archive:
        assert archive.read("step/extra/code.py") == b""
