"""A TorchScript module must not remember anything itself: all sessions would share it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from carousel_models import import_file
from carousel_models.errors import PackageError
from carousel_models.programs import open_program

from .graphs import write_script

CPU = torch.device("cpu")


class Counting(nn.Module):
    """It gives other numbers from the thousandth call on, long after any check at the start."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        self.calls += 1
        return (x + h) * float(self.calls < 1000), h + x


class Leaking(nn.Module):
    """The row of one session reaches all others."""

    def __init__(self) -> None:
        super().__init__()
        self.row = torch.zeros(2)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        if bool((x > 100).any()):
            for number in range(x.shape[0]):
                self.row = x[number]
        return x + self.row, h + x


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Leaking()

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        y: Tensor = self.inner(x, h)[0]
        return y, h


class Listing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rows = torch.jit.Attribute([torch.zeros(2)], list[Tensor])

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        self.rows[0] = x[0]
        return x + self.rows[0], h


class Naming(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rows = torch.jit.Attribute({"last": torch.zeros(2)}, dict[str, Tensor])

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        self.rows["last"] = x[0]
        return x + self.rows["last"], h


@pytest.mark.parametrize(
    ("kind", "name"),
    [(Counting, "calls"), (Leaking, "row"), (Nested, "row"), (Listing, "rows"), (Naming, "rows")],
)
def test_a_module_that_sets_its_attributes_is_refused(
    tmp_path: Path, kind: type[nn.Module], name: str
) -> None:
    data = write_script(tmp_path / "step.ts", kind()).read_bytes()
    with pytest.raises(PackageError, match=f"changes its own attribute '{name}'.*an input and an"):
        open_program("torchscript", data, CPU, "step.ts")


class Table(nn.Module):
    """Reads a list and a plain tensor, and changes neither."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = torch.jit.Attribute([torch.ones(2)], list[Tensor])
        self.shift = torch.tensor([3.0, 4.0])

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        return x + self.rows[0] + self.shift, h


def test_attributes_that_are_only_read_are_served(tmp_path: Path) -> None:
    data = write_script(tmp_path / "step.ts", Table()).read_bytes()
    program = open_program("torchscript", data, CPU, "step.ts")
    call = program.bind(("x", "h"), ("0",), {})
    assert call([torch.zeros(1, 2), torch.zeros(1, 2)])[0].tolist() == [[4, 5]]
    assert list(program.shared) == ["shift"]


class Adding(nn.Module):
    """Writes into a plain tensor, in a step whose own numbers do not show it at once."""

    def __init__(self) -> None:
        super().__init__()
        self.sum = torch.zeros(2)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        self.sum.add_(1.0)
        return x + h + (self.sum > 5000).float(), h + x


def test_a_plain_tensor_that_a_step_writes_into_is_found(tmp_path: Path) -> None:
    file = write_script(tmp_path / "step.ts", Adding())
    with pytest.raises(PackageError, match=r"changes its own tensor .*sum.* while it steps"):
        import_file(file, dir=tmp_path / "out", shape=["x=B,2", "h=B,2"], state=["h:1"])
    assert not (tmp_path / "out" / "step").exists()
