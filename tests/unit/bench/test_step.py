"""The figure `step`: its cases, its contestants, and the program that measures other libraries."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from bench.step import ours, roofline, torch_peers
from bench.step.cases import CELLS, CPU, DTYPES, GPU, Case, Grid, select
from bench.step.figure import groups, ratios
from bench.step.others import Others, start

SMALL = Case("lstm", "float32", 8, 2, 3)


@pytest.mark.parametrize(("grid", "layers"), [(CPU, (1, 2)), (CPU, None), (GPU, None)])
def test_the_grid_is_whole(grid: Grid, layers: tuple[int, ...] | None) -> None:
    cases = list(select("", layers, grid))
    kinds = len(CELLS) * len(DTYPES) * len(layers or grid.layers)
    assert len(cases) == len(set(cases)) == kinds * len(grid.hidden) * len(grid.batches)
    assert len({case.name for case in cases}) == len(cases)


def test_cases_are_chosen_by_words() -> None:
    chosen = list(select("gru,x256 ,float32, 64 rows", (1,)))
    assert [case.name for case in chosen] == ["gru 1x256 float32, 64 rows"]
    assert not list(select("elman", (1,)))


def test_what_a_case_moves_and_computes() -> None:
    case = Case("lstm", "bfloat16", 256, 2, 16)
    assert case.weights == 2 * 4 * 256 * 512
    assert case.operations == 2 * 16 * case.weights
    assert case.bytes_moved == case.weights * 2 + 16 * 256 * 4 * (1 + 2 * 2 * 2)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_our_contestants_run(cell: str, dtype: str) -> None:
    case = Case(cell, dtype, 8, 2, 3)  # type: ignore[arg-type]
    with torch.inference_mode():
        runs = dict(ours.runs(case))
        assert list(runs) == ["ours", "slab", "reference"]
        (raw, *_), (plain, *_) = runs["ours"](), runs["reference"]()
        assert raw.shape == plain.shape == (3, 8)
        assert runs["slab"]() is None


@pytest.mark.parametrize("cell", CELLS)
def test_torchs_contestants_compute_a_step(cell: str) -> None:
    case = Case(cell, "float32", 8, 2, 3)  # type: ignore[arg-type]
    with torch.inference_mode():
        runs = dict(torch_peers.runs(case, compiled=False))
        y, _ = runs["torch layer"]()
        assert y.shape == (1, 3, 8)
        after = runs["torch cell"]()
        assert [tuple(part[0].shape) for part in after] == [(3, 8)] * 2


def test_the_bound_is_a_time() -> None:
    assert 0 < roofline.bound_us(SMALL, 0.001) < 1e6


def test_the_other_program_says_what_it_has() -> None:
    """Whatever is installed here; each library it names, it measures."""
    with start(sys.executable) as others:
        assert set(others.versions) <= {"onnxruntime", "openvino"}
        for name in others.take(SMALL):
            assert others.measure(name, 0.01) > 0


def test_a_program_that_ends_is_told(tmp_path: Path) -> None:
    silent = tmp_path / "python"
    silent.write_text("#!/bin/sh\nexit 1\n")
    silent.chmod(0o755)
    with pytest.raises(RuntimeError, match="has ended"), start(str(silent)):
        pass


class _Nothing(Others):
    """An interpreter without libraries."""

    def __init__(self) -> None:
        self.versions = {}

    def take(self, case: Case) -> list[str]:
        return []


def test_a_case_is_a_group_and_missing_libraries_are_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = Namespace(
        cases="lstm,x128 ,float32, 1 rows", layers=[1], compiled=False, seconds=0.001
    )
    (group,) = groups(options, _Nothing())
    measured = {work.name.rsplit(": ", 1)[1]: work.measure()["us"] for work in group}
    names = ["ours", "slab", "reference", "torch layer", "torch cell", "bound"]
    assert list(measured) == names
    assert all(us > 0 for us in measured.values())
    told = capsys.readouterr().err
    assert all(name in told for name in ("onnxruntime", "openvino", "torch compiled"))


def test_ratios_are_over_the_fastest_peer() -> None:
    times = {"ours": 12.0, "slab": 15.0, "torch layer": 24.0, "openvino": 10.0, "bound": 6.0}
    figures = {f"a, 1 rows: {name}": {"us": {"min": us}} for name, us in times.items()}
    assert list(ratios(figures)) == [
        ("a, 1 rows: ours over openvino (D1 / D5)", 1.2),
        ("a, 1 rows: on the slab over alone (D2 / D1)", 1.25),
        ("a, 1 rows: ours over the bound (D1 / D4)", 2.0),
    ]
