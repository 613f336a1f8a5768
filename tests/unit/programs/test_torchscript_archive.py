"""TorchScript whose code does more than compute, however it is written, is refused before torch loads it."""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from carousel_models.errors import PackageError
from carousel_models.programs import open_program
from carousel_models.programs.torchscript_archive import sealed

from .graphs import HIDDEN, IN, Step, write_script

CPU = torch.device("cpu")


def records(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def archive_of(members: list[tuple[str, bytes]], how: int = zipfile.ZIP_STORED) -> bytes:
    found = io.BytesIO()
    with zipfile.ZipFile(found, "w", how) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return found.getvalue()


def with_line(path: Path, line: str) -> bytes:
    """The file with a line of code in front of its forward."""
    members = []
    for name, data in records(path).items():
        if name.endswith(".py"):
            start = r"(def forward\(.*?-> Tuple\[Tensor, Tensor\]:\n)"
            code = re.sub(start, rf"\g<1>    {line}\n", data.decode(), flags=re.DOTALL)
            members.append((name, code.encode()))
        else:
            members.append((name, data))
    return archive_of(members)


@pytest.fixture
def step(tmp_path: Path) -> Path:
    return write_script(tmp_path / "step.ts", Step())


def run(data: bytes) -> None:
    call = open_program("torchscript", data, CPU, "step.ts").bind(("x", "h"), ("0",), {})
    call([torch.zeros(1, IN), torch.zeros(1, 1, HIDDEN)])


@pytest.mark.parametrize(
    "line",
    [
        'torch.save(x, "written")',
        'torch.save (x, "written")',
        'torch. save(x, "written")',
        "f = torch.save\n    f(x, 'written')",
        'a = torch\n    a.save(x, "written")',
        'ops.aten.save(x, "written")',
        'a = ops.aten\n    a.save(x, "written")',
        'getattr(torch, "save")(x, "written")',
        r'getattr(torch, "\\163ave")(x, "written")',
        "# it's a quote\n    torch.save(x, 'written')",
        'torch.from_file("written", False, 1)',
    ],
)  # fmt: skip
def test_calls_that_use_files_are_refused(
    step: Path, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PackageError, match=r"reads or writes files.*rename"):
        run(with_line(step, line))
    assert not (tmp_path / "written").exists()


@pytest.mark.parametrize(
    "line",
    [
        "y = ops.inductor._reinterpret_tensor(x, [4], [1], 100000)",
        "a = ops\n    y = a.inductor._reinterpret_tensor(x, [4], [1], 100000)",
        "y = torch.ops.inductor._reinterpret_tensor(x, [4], [1], 100000)",
        "y = ops.debugprims.load_tensor('written', [1], [1])",
    ],
)
def test_operators_of_other_libraries_are_refused(step: Path, line: str) -> None:
    """Some of them work on raw memory, outside of their tensors."""
    with pytest.raises(PackageError, match="operators or classes of other libraries"):
        run(with_line(step, line))


class Named(nn.Module):
    """Names and texts that look like calls of files, and operators that torch writes with `ops`."""

    def __init__(self) -> None:
        super().__init__()
        self.ops = nn.ModuleList([nn.Linear(3, 3)])

    def forward(self, x: Tensor, payload: Tensor) -> tuple[Tensor, Tensor]:
        if x.shape[0] > 100000:
            raise ValueError("nothing to load: torch.save(x)")
        return self.ops[0](x), payload


def test_words_in_texts_and_parts_of_names_are_no_calls(tmp_path: Path) -> None:
    data = write_script(tmp_path / "step.ts", Named()).read_bytes()
    call = open_program("torchscript", data, CPU, "step.ts").bind(("x", "payload"), ("1",), {})
    assert torch.equal(call([torch.zeros(1, 3), torch.ones(1)])[0], torch.ones(1))


def test_torch_gets_the_records_that_were_checked(step: Path) -> None:
    """Two readers can find different records in the same bytes, and the other ones could be loaded."""
    members = list(records(step).items())
    both = archive_of(members) + archive_of([(n, d) for n, d in members if "/code/" not in n])
    assert not any(".py" in name for name in zipfile.ZipFile(io.BytesIO(both)).namelist())
    with pytest.raises(PackageError, match="no TorchScript code"):
        sealed(both, "step.ts")
    prefixed = sealed(b"PTMF" * 100 + archive_of(members), "step.ts")
    assert prefixed == sealed(archive_of(members), "step.ts")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_records_of_one_name_are_refused(step: Path) -> None:
    members = list(records(step).items())
    with pytest.raises(PackageError, match="two records of one name"):
        run(archive_of([*members, members[0]]))


def test_damaged_records_are_refused(step: Path) -> None:
    whole = archive_of(list(records(step).items()), zipfile.ZIP_DEFLATED)
    refused = 0
    for place in range(0, len(whole), 7):
        data = bytearray(whole)
        data[place] ^= 0x5A
        try:
            run(bytes(data))
        except PackageError:
            refused += 1
    assert refused > 100


def test_code_that_is_no_text_is_refused(step: Path) -> None:
    members = [(n, b"\xff" if n.endswith(".py") else d) for n, d in records(step).items()]
    with pytest.raises(PackageError, match="not a TorchScript archive"):
        run(archive_of(members))
