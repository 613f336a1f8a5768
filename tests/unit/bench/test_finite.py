"""The figure of the check that steps are finite: what is timed, with and without the check."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench import models
from bench.finite import MOST_PERCENT, Turns, ratios

from carousel_models import load
from carousel_server.engine.finite import FiniteRules


def test_ticks_are_timed_with_the_check_and_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(models.make(tmp_path) / models.STEPPED, device="cpu")
    turns = Turns(model, 3, 0.0)
    looked = 0
    hold = FiniteRules.hold

    def counted(self: FiniteRules, *given: object, **named: object) -> bool:
        nonlocal looked
        looked += 1
        return hold(self, *given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(FiniteRules, "hold", counted)
    found = turns()
    assert looked == 6  # in three ticks of six, and three times by itself
    assert set(found) == {
        *("tick_us", "unchecked_us", "difference_percent", "check_us", "check_percent"),
    }
    assert min(found["tick_us"], found["unchecked_us"], found["check_us"]) > 0


def test_the_share_is_told_over_the_target() -> None:
    figures = {"m, 1 sessions": {"check_percent": {"median": MOST_PERCENT / 2}}}
    [(name, value)] = ratios(figures)
    assert name == "m, 1 sessions: share of a tick, over 2.0 %"
    assert value == 0.5
