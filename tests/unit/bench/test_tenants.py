"""The figure of two tenants: what it compares."""

from __future__ import annotations

import pytest
from bench import tenants
from bench.__main__ import FIGURES


def quantity(value: float) -> dict[str, float]:
    return {"median": value, "min": value, "max": value}


def test_the_ratios_are_of_the_steady_tenants_p99() -> None:
    p99_ms = {tenants.ALONE: 4.0, tenants.PEAK: 20.0, tenants.FLOOD: 30.0}
    p99_ms |= {tenants.SHORT: 7.0, tenants.LIMITED: 6.0}
    figures = {name: {"others_p99_ms": quantity(value)} for name, value in p99_ms.items()}
    figures[tenants.PEAK]["goodput_rows_per_s"] = quantity(1000.0)
    figures[tenants.FLOOD] |= {
        "offered_rows_per_s": quantity(9000.0),
        "goodput_rows_per_s": quantity(600.0),
        "others_failed": quantity(0.0),
    }
    figures[tenants.SHORT]["goodput_rows_per_s"] = quantity(450.0)
    values = [value for _, value in tenants.ratios(figures)]
    assert values == pytest.approx([1.5, 7.5, 1.75, 1.5, 9.0, 0.6, 0.45, 0.0])


def test_it_is_a_figure_of_the_bench() -> None:
    assert FIGURES["tenants"][1] is tenants.ratios
