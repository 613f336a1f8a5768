"""Whole modules with branches become chains of parts that step as the modules do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from carousel_models import read_manifest
from tests.unit.whole import branches
from tests.unit.whole.test_whole_models import saved

CASES: dict[Any, tuple[str, ...]] = {
    branches.Concatenated: ("rows1", "layers1", "concat1"),
    branches.AroundTwoLayers: ("layers1", "add1"),
    branches.TwoBranches: ("layers1", "layers2", "add1"),
    branches.CellsSideBySide: ("layers1", "layers2", "concat1"),
    branches.GatedRows: ("rows1", "layers1", "rows2", "multiply1"),
    branches.DenseSkips: ("rows1", "layers1", "concat1", "layers2", "concat2"),
    branches.AddedToItself: ("layers1", "add1", "rows1", "add2", "add3", "rows2", "add4"),
}


@pytest.mark.parametrize("kind", CASES, ids=lambda kind: kind.__name__)
def test_a_package_steps_as_its_module(tmp_path: Path, kind: Any) -> None:
    torch.manual_seed(0)
    module = kind().double().eval()
    model = saved(tmp_path / "m", module)
    assert tuple(part.name for part in read_manifest(tmp_path / "m").parts) == CASES[kind]
    tokens = model.vocabulary
    x = (
        torch.randint(tokens, (2, 9))
        if tokens
        else torch.randn(2, 9, model.manifest.input.raw_width)
    )
    state, found = model.initial_state(2), []
    with torch.inference_mode():
        for step in x.unbind(1):
            raw, state = model.step(step, state)
            found.append(model.finish(raw)[0].double())
        expected = module(x if tokens else x.double())
        rows = torch.stack(found, dim=1)
        if expected.dim() == 2:  # the module gives the row of the last step
            rows = rows[:, -1]
        torch.testing.assert_close(rows, expected, rtol=1e-5, atol=1e-5)
