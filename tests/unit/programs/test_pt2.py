"""Files of torch.export are read as data: what could run code is refused, and numbers are torch's."""

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
from torch import Tensor, nn

from carousel_models.errors import PackageError
from carousel_models.programs import Program, open_program

from .graphs import HIDDEN, IN, Step, write_pt2

CPU = torch.device("cpu")
MODEL = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"


def opened(path: Path) -> Program:
    return open_program("pt2", path.read_bytes(), CPU, path)


def changed(path: Path, name: str, change: Callable[[Any], Any]) -> Path:
    """The archive with one record changed. JSON is parsed for `change`. Without the record, it gets b""."""
    found = io.BytesIO()
    done = False
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(found, "w") as new:
        for record in old.namelist():
            data = old.read(record)
            if record.partition("/")[2] == name:
                done = True
                if name.endswith(".json"):
                    data = json.dumps(change(json.loads(data))).encode()
                else:
                    data = change(data)
            new.writestr(record, data)
        if not done:
            new.writestr(f"step/{name}", change(b""))
    path.write_bytes(found.getvalue())
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_pt2(tmp_path / "step.pt2", Step())


class Bomb:
    """Fails the test if anything unpickles it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("the file's code was run",)


def test_an_entry_that_would_be_unpickled_is_refused(file: Path) -> None:
    def change(config: Any) -> Any:
        config["config"]["w"] |= {"use_pickle": True, "tensor_meta": None}
        return config

    changed(file, WEIGHTS, change)
    changed(file, "data/weights/weight_0", lambda _: pickle.dumps(Bomb()))
    with pytest.raises(
        PackageError, match=r"'w' as a pickle \(use_pickle\).*export the step again"
    ):
        opened(file)


def test_a_constant_that_would_be_unpickled_is_refused(file: Path) -> None:
    entry = {
        "path_name": "opaque_obj_0",
        "is_param": False,
        "use_pickle": True,
        "tensor_meta": None,
    }
    changed(file, CONSTANTS, lambda _: {"config": {"thing": entry}})
    with pytest.raises(PackageError, match="use_pickle"):
        opened(file)


def test_sample_inputs_and_guards_are_never_used(file: Path) -> None:
    """Torch unpickles the former, and runs the latter as Python."""
    changed(file, "data/sample_inputs/model.pt", lambda _: pickle.dumps(Bomb()))

    def change(program: Any) -> Any:
        program["guards_code"] = ["__import__('pytest').fail('the guard was run')"]
        for meta in program["graph_module"]["graph"]["tensor_values"].values():
            for size in meta["sizes"]:
                if "as_expr" in size:
                    size["as_expr"]["expr_str"] = "__import__('pytest').fail('evaluated')"
        return program

    changed(file, MODEL, change)
    call = opened(file).bind(("x", "h"), ("0",), {})
    assert call([torch.zeros(2, IN), torch.zeros(1, 2, HIDDEN)])[0].shape == (2, 2)


@pytest.mark.parametrize(
    "target",
    [
        "torch.serialization.os.system",
        "_operator.attrgetter",
        "math.__loader__.load_module",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.__class__.mro",
        "torch.ops.aten.add.__class__",
        "torch.ops.aten.no_such_operator.default",
        "torch.ops.higher_order.cond",
        "torch.ops.torchvision.nms.default",
        "print",
    ],
)
def test_only_operators_of_aten_are_called(file: Path, target: str) -> None:
    def change(program: Any) -> Any:
        program["graph_module"]["graph"]["nodes"][0]["target"] = target
        return program

    with pytest.raises(PackageError, match=r"only operators of torch\.ops\.aten are run"):
        opened(changed(file, MODEL, change))


def test_native_code_is_refused(file: Path) -> None:
    with pytest.raises(PackageError, match="AOTInductor"):
        opened(changed(file, "data/aotinductor/model/lib.so", lambda _: b"ELF"))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("archive_format", lambda _: b"zip", "not an archive of torch.export"),
        ("byteorder", lambda _: b"big", "byte order"),
        ("data/weights/weight_0", lambda data: data[:-4], "fewer than its shape needs"),
        (MODEL, lambda p: p | {"schema_version": {"major": 9, "minor": 0}}, "version 9 of torch's schema"),
        (MODEL, lambda _: {}, "damaged or of another version"),
        (WEIGHTS, lambda _: {"config": {}}, "damaged or of another version"),
        ("models/other.json", lambda _: b"{}", "2 programs"),
    ],
)  # fmt: skip
def test_damaged_files_are_refused(file: Path, name: str, change: Any, message: str) -> None:
    if name == "models/other.json":
        data = io.BytesIO(file.read_bytes())
        with zipfile.ZipFile(data, "a") as archive:
            archive.writestr("step/models/other.json", "{}")
        file.write_bytes(data.getvalue())
    else:
        changed(file, name, change)
    with pytest.raises(PackageError, match=message):
        opened(file)


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "step.pt2").write_bytes(b"no archive")
    with pytest.raises(PackageError, match=r"is not an archive of torch\.export"):
        opened(tmp_path / "step.pt2")


def test_a_batch_with_a_maximum_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="of at most 64, and a server has larger batches"):
        opened(write_pt2(tmp_path / "step.pt2", Step(), most=64))


class Mixed(nn.Module):
    """Operators with lists, numbers of the batch, types, options, in-place results and several results."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lstm = nn.LSTM(IN, HIDDEN // 2, 2, batch_first=True)
        self.norm = nn.LayerNorm(HIDDEN)
        self.register_buffer("table", torch.randn(5, HIDDEN))
        self.conv = nn.Conv1d(1, 2, 2, padding=1)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        halves = h[0].view(x.shape[0], 2, -1).transpose(0, 1).contiguous()
        y, (a, _) = self.lstm(x[:, None], (halves, torch.zeros_like(halves)))
        joined = torch.cat([y[:, 0], torch.full((x.shape[0], 2), 0.5)], -1)
        joined.add_(self.table[x.abs().sum(1).to(torch.int64) % 5])
        left, right = self.norm(joined).chunk(2, -1)
        gate = torch.where(left > 0, left, float("-inf")).exp().clamp(max=3.0)
        wide = self.conv(right[:, None]).mean(1).repeat(1, 2).view(x.shape[0] * 2, -1)
        wide = wide.sum(1).view(x.shape[0], 2).double().float()
        return torch.stack([gate, wide], 0).sum(0), torch.cat((a[0], a[1]), 1)[None]


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_graphs_give_the_numbers_of_the_module(tmp_path: Path, rows: int) -> None:
    module = Mixed().eval()
    program = opened(write_pt2(tmp_path / "step.pt2", module))
    torch.manual_seed(rows)
    x, h = torch.randn(rows, IN), torch.randn(1, rows, HIDDEN)
    before = {name: tensor.clone() for name, tensor in program.shared.items()}
    with torch.inference_mode():
        expected = module(x, h)
        found = program.bind(("x", "h"), ("0", "1"), {})([x, h])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    for name, tensor in program.shared.items():
        assert torch.equal(tensor, before[name])


def test_the_signature_has_the_files_names_and_dimensions(file: Path) -> None:
    signature = opened(file).signature
    x, h = signature.inputs
    assert (x.name, x.dtype, h.name) == ("x", "float32", "h")
    assert x.dims is not None
    assert x.dims[1] == IN
    assert h.dims == (1, x.dims[0], HIDDEN)
    assert [port.name for port in signature.outputs] == ["0", "1"]


def test_a_step_that_changes_its_own_buffer_is_refused(tmp_path: Path) -> None:
    class Counting(Step):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(()))

        def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
            self.count += 1
            y, h = super().forward(x, h)
            return y + self.count, h

    from carousel_models import import_file

    file = write_pt2(tmp_path / "step.pt2", Counting())
    with pytest.raises(
        PackageError, match=r"'count'.*|other numbers when the same steps run again"
    ):
        import_file(file, dir=tmp_path / "out")
