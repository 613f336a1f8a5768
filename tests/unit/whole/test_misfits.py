"""What does not fit is named, and the skeleton of a custom module is filled in."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from carousel_models import PackageError, load, save
from carousel_models.spec import SelectTopK
from tests.unit.whole import misfits as m
from tests.unit.whole.modules import ArgmaxTagger, CharModel, ResidualStack, Sentiment
from tests.unit.whole.test_whole_models import saved

REFUSALS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "cat": (m.Concatenated, r"exp, at misfits.py:\d+: no part of a manifest does this"),
    "gate": (m.Gated, r"abs, at misfits.py:\d+: no part of a manifest does this"),
    "two layers": (m.AroundTwoLayers, r"exp, at misfits.py:\d+: no part of a manifest does this"),
    "branches": (m.TwoBranches, r"exp, at misfits.py:\d+: no part of a manifest does this"),
    "cells": (m.CellsSideBySide, r"exp, at misfits.py:\d+: no part of a manifest does this"),
    "both beside": (m.BothWaysBeside, r"lstm \(LSTM\).*: it reads backwards too, beside other branches"),
    "numbers": (m.BesideNumbers, r"cat, at misfits.py:\d+: it joins things that are no rows of steps"),
    "mean": (m.MeanPooled, r"mean, at misfits.py:\d+: it pools over the steps; keep what it needs"),
    "conv": (m.ConvFront, r"conv \(Conv1d\), at misfits.py:\d+: it reads several steps at once"),
    "attention": (m.Attention, r"attn \(MultiheadAttention\).*: no part of a manifest does this"),
    "h of both": (m.BothWaysLast, "the state of a layer that is not the last one, or that reads backwards"),
    "end of both": (m.BothWaysEnd, "the last row of layers that read both ways, whose backward half"),
    "decoder": (m.EncoderDecoder, r"decoder \(GRU\).*begins with a state that is not its own"),
    "feedback": (m.Feedback, "begins with a state that is not its own|needs the row of one step"),
    "random": (m.RandomBegin, "begins with a state that differs between the rows of a batch, as torch.ran"),
    "positional": (m.Positional, "its constant differs from step to step or from row to row"),
    "layout": (m.WrongLayout, r"b \(GRU\).*batch_first=False it would read \[batch, steps, features\] wrong"),
    "dropout": (m.AlwaysDrops, r"it drops numbers in eval mode too; give training=self.training"),
    "softmax": (m.SoftmaxOverTime, r"softmax.*: it is over the steps and not over the row; give dim=-1"),
    "dict": (m.SeveralOutputs, "a dict of tags, scores, of which 2 are rows; a package has one output"),
    "tables": (m.TwoTables, "it is not the only table .* it looks its tokens up in several tables"),
    "no state": (m.NoState, "it has no recurrent layer; Carousel serves models with a state"),
    "argument": (m.NeedsMore, r"forward needs the argument 'speaker', .* give example=\(x, speaker\)"),
    "fails": (m.Bfloat, "fails on every input that was tried: RuntimeError.*no kernel image"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_what_does_not_fit_is_named(tmp_path: Path, name: str) -> None:
    make, message = REFUSALS[name]
    with pytest.raises(PackageError, match=message):
        save(tmp_path / "m", model=make())
    assert not list(tmp_path.iterdir())


def written(folder: Path, module: nn.Module, name: str) -> tuple[Any, str]:
    """The skeleton of a module, imported, and the error that named it."""
    file = folder / f"{name}.py"
    with pytest.raises(PackageError) as refused:
        save(folder / "refused", model=module, skeleton=file)
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    step = importlib.util.module_from_spec(spec)
    sys.modules[name] = step
    spec.loader.exec_module(step)
    return step, str(refused.value)


COMPLETE: dict[str, Callable[[], nn.Module]] = {
    "concatenated": m.Concatenated,
    "gated": m.Gated,
    "around_two_layers": m.AroundTwoLayers,
    "two_branches": m.TwoBranches,
    "cells_side_by_side": m.CellsSideBySide,
}


@pytest.mark.parametrize("name", COMPLETE)
def test_a_skeleton_is_complete_where_all_is_of_one_step(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    module = COMPLETE[name]()
    step, error = written(tmp_path, module, f"skeleton_of_{name}")
    try:
        assert "it is complete: run its save()" in error
        manifest = step.save(module, tmp_path / "package")  # compared with the module itself
        assert manifest.custom.module.startswith(f"skeleton_of_{name}:{type(module).__name__}Step")
        assert load(tmp_path / "package", allow_custom={manifest.custom.module}).causal
        with torch.no_grad():
            next(module.parameters()).mul_(-3)
        stale = step.converted(COMPLETE[name]())
        step.converted = lambda _: stale
        with pytest.raises(PackageError, match="would not be the reference"):
            step.save(module, tmp_path / "other")
    finally:
        del sys.modules[f"skeleton_of_{name}"]


@pytest.mark.parametrize("make", [m.MeanPooled, m.ConvFront, m.Attention])
def test_a_skeleton_runs_where_lines_are_left_to_write(tmp_path: Path, make: Any) -> None:
    module, name = make(), f"todo_{make.__name__.lower()}"
    step, error = written(tmp_path, module, name)
    try:
        assert "TODO is at 1 places of it" in error
        y, state = step.converted(module).step(
            torch.randn(3, 4), [torch.zeros(3, *one.shape) for one in step.SPEC.states]
        )
        assert y.shape == (3, step.SPEC.width)
        assert [tuple(one.shape[1:]) for one in state] == [one.shape for one in step.SPEC.states]
        with pytest.raises(PackageError, match=r"would not be the reference|one row per step"):
            step.save(module, tmp_path / "package")
    finally:
        del sys.modules[name]


def test_a_skeleton_overwrites_nothing(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("x = 1\n")
    with pytest.raises(PackageError, match=r"mine.py exists and was left as it is"):
        save(tmp_path / "m", model=m.AroundTwoLayers(), skeleton=file)
    assert file.read_text() == "x = 1\n"
    with pytest.raises(PackageError, match=r"'my step.py' cannot be imported; give NAME.py"):
        save(tmp_path / "m", model=m.AroundTwoLayers(), skeleton=tmp_path / "my step.py")
    with pytest.raises(
        PackageError, match=r"because lstm .* reads backwards too, so it has no step"
    ):
        save(tmp_path / "m", model=m.BothWaysEnd(), skeleton=tmp_path / "new.py")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"]


def test_a_whole_module_and_parts_are_not_mixed(tmp_path: Path) -> None:
    module = ResidualStack()
    with pytest.raises(PackageError, match="stack, head, normalization came with it"):
        save(
            tmp_path / "m", model=module, stack=module.rnns, head=module.out,
            normalization=([0.0], [1.0]),
        )  # fmt: skip
    with pytest.raises(
        PackageError, match="nothing to save; give model=, a whole module, or stack="
    ):
        save(tmp_path / "m")


def test_a_transform_is_the_modules_or_the_callers(tmp_path: Path) -> None:
    saved(tmp_path / "a", ResidualStack(), transform="softmax")
    with pytest.raises(PackageError, match=r"has a select already \(argmax\), and select= asks"):
        save(tmp_path / "b", model=ArgmaxTagger(), select=SelectTopK(k=2))


def test_the_last_step_is_said(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="gives a row after each step, as if the sequence ended"):
        save(tmp_path / "m", model=Sentiment())


@pytest.mark.parametrize("by", ["bool", "item", "after a write", "equal"])
def test_code_that_decides_by_the_rows_is_said_with_its_line(tmp_path: Path, by: str) -> None:
    with pytest.warns(
        UserWarning, match=r"numbers of its rows at misfits.py:\d+; a package has no"
    ):
        save(tmp_path / "m", model=m.Decides(by))


@pytest.mark.parametrize("by", ["weights", "shapes"])
def test_code_that_decides_by_what_never_changes_is_not_said(tmp_path: Path, by: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        saved(tmp_path / "m", m.Decides(by))


def test_what_is_no_module_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="model= is a str; give a torch"):
        save(tmp_path / "m", model="gestures.onnx")  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_wrappers_and_weight_norm(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = ResidualStack(1)
    plain = saved(tmp_path / "plain", module).fingerprint
    for name, wrap in (("c", torch.compile), ("p", nn.DataParallel)):
        assert saved(tmp_path / name, wrap(module)).fingerprint == plain
    module.rnns[0] = torch.compile(module.rnns[0])
    assert saved(tmp_path / "inner", module).fingerprint == plain
    normed = ResidualStack(1)
    torch.nn.utils.parametrizations.weight_norm(normed.out)
    torch.nn.utils.parametrizations.spectral_norm(normed.proj)
    saved(tmp_path / "normed", normed)  # compared with the module


def test_a_hidden_difference_is_found(tmp_path: Path) -> None:
    module = ResidualStack(1)
    module.out.register_forward_hook(lambda *given: given[-1] * 1.01)
    with pytest.raises(PackageError, match="the package would not be the reference"):
        save(tmp_path / "m", model=module)


def test_an_example_says_how_to_call(tmp_path: Path) -> None:
    module = m.NeedsMore()
    with pytest.raises(PackageError, match=r"its operand|constant differs"):
        save(tmp_path / "m", model=module, example=(torch.randn(3, 4, 4), torch.rand(3, 1, 1)))
    saved(tmp_path / "m", module, example=(torch.randn(3, 4, 4), torch.rand(5)))
    model = CharModel()
    saved(
        tmp_path / "c", model, example=(torch.zeros(3, 2, dtype=torch.int64), model.init_hidden(3))
    )


def test_a_learned_initial_state_is_stored(tmp_path: Path) -> None:
    class Begins(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(3, 4, 2, batch_first=True)
            self.h0 = nn.Parameter(torch.randn(2, 1, 4))
            self.c0 = nn.Parameter(torch.randn(2, 1, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            n = x.shape[0]
            return self.lstm(x, (self.h0.repeat(1, n, 1), self.c0.expand(-1, n, -1).contiguous()))[
                0
            ]

    module = Begins()
    model = saved(tmp_path / "m", module)
    for place, name in enumerate(("0.h", "0.c", "1.h", "1.c")):
        assert model.state_specs[place].name == name
        source = (module.h0, module.c0)[place % 2][place // 2]
        assert torch.equal(model.initial_state(1)[place], source)
