"""Chains of torch modules and step graphs as packages, compared with the modules themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name that every torch reader knows
from unit.programs.graphs import equations, write_onnx

from carousel_models import PackageError, load, part, program, read_manifest, save
from carousel_models.cells import MinGRU
from carousel_models.chain_parts import ConvPart, LayersPart, RowConvPart, RowsPart
from carousel_models.spec import FramesInput, OverlapAdd, uniform_stack
from carousel_models.stack_kinds import AddPart, ConcatPart, IrfftPart, RfftPart


class Tagger(nn.Module):
    """A front, two convolutions, LSTM layers, and skips around them."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.5), nn.LayerNorm(8))
        self.conv = nn.Conv1d(8, 8, 3, dilation=2, padding=4)
        self.depth = nn.Conv1d(8, 8, 2, groups=8, bias=False)
        self.inner = nn.Conv1d(2, 3, 3, padding="same")
        self.lstm = nn.LSTM(12, 10, 2, batch_first=True)
        self.head = nn.Linear(18, 4)

    def forward(self, x: Tensor) -> Tensor:
        front = self.front(x)
        y = self.conv(front.transpose(1, 2))[..., :-4]  # the last rows would read later ones
        y = self.depth(F.pad(y, (1, 0))).transpose(1, 2) + front
        y = self.inner(y.reshape(-1, 2, 4)).reshape(*y.shape[:2], 12)
        return self.head(torch.cat((self.lstm(y)[0], front), dim=-1))

    def parts(self) -> list[Any]:
        return [
            part("front", self.front),
            part("conv", self.conv),
            part("depth", self.depth),
            AddPart(name="sum", from_=("depth", "front")),
            part("inner", self.inner, inside=True),
            part("lstm", self.lstm),
            ConcatPart(name="both", from_=("lstm", "front")),
        ]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_chain_is_its_module(tmp_path: Path, dtype: Any) -> None:
    torch.manual_seed(0)
    module = Tagger().eval()
    reference = module if dtype == "float32" else None
    save(tmp_path / "m", stack=module.parts(), head=module.head, reference=reference, dtype=dtype)
    manifest = read_manifest(tmp_path / "m")
    assert [one.kind for one in manifest.parts] == [
        "rows", "conv", "conv", "add", "row_conv", "layers", "concat",
    ]  # fmt: skip
    assert manifest.cell == "rows+conv+add+row_conv+lstm+concat"
    model = load(tmp_path / "m")
    x = torch.randn(1, 20, 6, generator=torch.Generator().manual_seed(1))
    state, rows = model.initial_state(1), []
    with torch.inference_mode():
        expected = module.double()(x.double())[0]
        for row in x[0]:
            raw, state = model.step(row[None], state)
            rows.append(raw[0])
    tolerance = 1e-5 if dtype == "float32" else 0.05
    torch.testing.assert_close(torch.stack(rows).double(), expected, rtol=0, atol=tolerance)


def test_a_wrong_order_of_sources_is_found_by_the_reference(tmp_path: Path) -> None:
    module = Tagger().eval()
    parts = [*module.parts()[:-1], ConcatPart(name="both", from_=("front", "lstm"))]
    with pytest.raises(PackageError, match="differ"):
        save(tmp_path / "m", stack=parts, head=module.head, reference=module)
    assert not (tmp_path / "m").exists()


def test_cells_and_several_modules_are_layers(tmp_path: Path) -> None:
    gru, cell, own = nn.GRU(3, 4), nn.GRUCell(4, 5), MinGRU(5, 6)
    save(tmp_path / "m", stack=[part("all", [gru, cell, own])])
    (made,) = read_manifest(tmp_path / "m").parts
    assert isinstance(made, LayersPart)
    assert [layer.cell for layer in made.layers] == ["gru", "gru", "min_gru"]
    x = torch.randn(1, 3)
    found, state = load(tmp_path / "m").step(x, load(tmp_path / "m").initial_state(1))
    with torch.no_grad():
        expected = own(cell(gru(x[None])[0][0])[None])[0][0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert len(state) == 3


def test_learned_states_of_parts_have_their_names(tmp_path: Path) -> None:
    gru = nn.GRU(3, 4)
    save(tmp_path / "m", stack=[part("a", gru), part("b", nn.Conv1d(4, 2, 2))],
         initial={"a.0.h": torch.ones(4), "b.context": 0.5})  # fmt: skip
    h, context = load(tmp_path / "m").initial_state(1)
    assert torch.equal(h, torch.ones(1, 4))
    assert torch.equal(context, torch.full((1, 1, 4), 0.5))


def test_programs_stand_beside_modules(tmp_path: Path) -> None:
    """Two files, a skip around the second, and notes of what was found."""
    one, two = write_onnx(tmp_path / "a.onnx"), write_onnx(tmp_path / "b.onnx", gain=False)
    linear, notes = nn.Linear(2, 3), list[str]()
    save(
        tmp_path / "m",
        stack=[
            program("one", one, note=notes.append),
            part("between", linear, from_=["one"]),
            program("two", two, "between", state=["h:h_out"]),
            AddPart(name="sum", from_=("one", "two")),
        ],
    )
    assert notes[0].startswith("one: a step takes x and gives y")
    assert (tmp_path / "m" / "b.onnx").read_bytes() == two.read_bytes()
    model, x = load(tmp_path / "m"), np.random.default_rng(0).standard_normal((1, 9, 3))
    rows = equations(x[0])
    weight, bias = linear.weight.detach().double().numpy(), linear.bias.detach().double().numpy()
    expected = rows + equations(rows @ weight.T + bias)
    found, _ = model.sequence(torch.from_numpy(x).float(), torch.tensor([9]))
    np.testing.assert_allclose(found[0].numpy(), expected, atol=1e-5)


def test_frames_say_how_wide_the_first_rows_are(tmp_path: Path) -> None:
    frames = FramesInput(hop=4, context=4, rate=8000, encoding="float32")
    parts = [RfftPart(name="s"), IrfftPart(name="y", samples=8)]
    save(tmp_path / "m", stack=parts, frames=frames, overlap_add=OverlapAdd(hop=4))
    x = torch.randn(1, 6, 4)
    found, _ = load(tmp_path / "m").sequence(x, torch.tensor([6]))
    before = torch.cat((torch.zeros(1, 1, 4), x[:, :-1]), dim=1)
    torch.testing.assert_close(found, 2 * before, rtol=0, atol=1e-6)  # each sample is in two frames
    with pytest.raises(PackageError, match="takes rows of 3 numbers, but a frame has 8 samples"):
        save(tmp_path / "n", stack=[part("a", nn.Linear(3, 2))], frames=frames)


def test_part_kinds_of_modules() -> None:
    assert isinstance(part("a", nn.Tanh()).part, RowsPart)
    assert isinstance(part("a", nn.Conv1d(1, 1, 1)).part, ConvPart)
    assert isinstance(part("a", nn.Conv1d(1, 1, 1), inside=True).part, RowConvPart)
    assert part("a", nn.Sequential(nn.Tanh(), nn.Linear(7, 2))).width == 7
    assert part("a", nn.Conv1d(4, 1, 1), "input").part.from_ == ("input",)
    assert part("a", nn.DataParallel(nn.Linear(3, 2))).width == 3


class Scaled(nn.Linear):
    """A linear layer with code that no package holds."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


GRU = uniform_stack("gru", 1, 4)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: part("A", nn.Linear(2, 2)), "part 'A': name"),
        (lambda: part("a", nn.Conv2d(1, 1, 1)), "part 'a' cannot be Conv2d; give recurrent modules"),
        (lambda: part("a", [nn.GRU(2, 2), nn.Linear(2, 2)]), "cannot be GRU, Linear"),
        (lambda: part("a", nn.GRU(2, 2, bidirectional=True)), "a layer that is not causal"),
        (lambda: part("a", nn.Conv1d(2, 2, 3, padding=1)), "padding .1,., but a row .* earlier rows only"),
        (lambda: part("a", nn.Conv1d(2, 2, 3, padding="same")), "earlier rows only"),
        (lambda: part("a", nn.Conv1d(2, 2, 3, stride=2)), "stride 2"),
        (
            lambda: part("a", nn.Conv1d(2, 2, 2, padding="same"), inside=True),
            "padding 'same' .* equally many zeros at both ends",
        ),
        (
            lambda: part("a", nn.Conv1d(2, 2, 3, padding=1, padding_mode="reflect"), inside=True),
            "of mode 'reflect'",
        ),
        (lambda: of(part("a", nn.Linear(2, 3)), nn.Linear(3, 3)), "mixes parts with a Linear"),
        (lambda: of(RfftPart(name="a")), "'a' does not say how wide its rows are; give features="),
        (lambda: of(part("a", nn.GRU(2, 3)), residual=True), "residual= and norms= are not for"),
        (lambda: of(part("a", nn.GRU(2, 3)), norms=[nn.LayerNorm(3)]), "are not for a stack of parts"),
        (lambda: of(part("a", nn.Linear(2, 3)), part("b", nn.GRU(2, 3))), "part 'b'|b.0.forward.weight_ih"),
        (lambda: of(LayersPart(name="a", layers=GRU), features=2), "parts.a.0.forward.bias_hh: None"),
        (lambda: of(part("a", Scaled(2, 3))), "Scaled of part 'a' is a Scaled, a subclass of Linear"),
        (
            lambda: of(part("a", nn.Sequential(nn.Tanh(), Scaled(2, 3)))),
            "Scaled of part 'a' is a Scaled",
        ),
        (lambda: of(part("a", nn.utils.weight_norm(nn.Conv1d(2, 3, 2)))), "Conv1d of part 'a'"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_parts_that_are_refused(make: Any, problem: str) -> None:
    with pytest.raises(PackageError, match=problem):
        make()


def of(*parts: Any, **more: Any) -> None:
    save("/nowhere/m", stack=list(parts), **more)


def test_files_that_are_no_step_graphs_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    with pytest.raises(PackageError, match=r"a.npz is no step graph"):
        program("a", tmp_path / "a.npz")
    file = write_onnx(tmp_path / "a.onnx")
    with pytest.raises(PackageError, match="part 'A': name"):
        program("A", file)
    with pytest.raises(PackageError, match="have no option --map"):
        program("a", file, map="x")
    (tmp_path / "b").mkdir()
    other = write_onnx(tmp_path / "b" / "a.onnx", names=("u", "h", "y", "h_out"))
    parts = [program("a", file), part("l", nn.Linear(2, 3)), program("b", other)]
    with pytest.raises(PackageError, match=r"two different files have the name 'a.onnx'"):
        save(tmp_path / "m", stack=parts)


@pytest.mark.parametrize(
    "signal",
    [{"frames": FramesInput(hop=4, rate=8000)}, {"overlap_add": OverlapAdd(hop=2)}],
    ids=["frames", "overlap_add"],
)
def test_a_whole_module_does_not_lose_its_signal(tmp_path: Path, signal: Any) -> None:
    with pytest.raises(PackageError, match="give its parts, and reference= for the signal"):
        save(tmp_path / "m", model=nn.Sequential(nn.Linear(4, 4)), **signal)
