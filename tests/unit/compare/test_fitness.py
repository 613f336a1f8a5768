"""The verdicts follow from the numbers, and turn when the numbers do."""

from __future__ import annotations

import pytest

from carousel_models.compare.fitness import fits
from carousel_models.compare.results import Fit, Quality, Recall, Speed, Structure


def verdicts(
    *,
    bits: dict[str, float],
    step_s: dict[str, float],
    state: dict[str, int],
    reach: dict[str, int],
) -> dict[str, Fit]:
    gaps = (1, 8, 64)
    found = fits(
        [Structure(cell, "", 1, ("h",), 1, 8, 1, 1, state[cell], 1) for cell in bits],
        [Quality(cell, bits[cell], 0.5, 10, 1, 1.0) for cell in bits],
        [
            Speed(cell, batch, step_s[cell], 0.0, 1.0, 9, batch / step_s[cell])
            for cell in bits
            for batch in (1, 64)
        ],
        [
            Recall(cell, gap, True, 1.0 if gap <= reach[cell] else 0.2, 0.1, 1.0, 0.125)
            for cell in bits
            for gap in gaps
        ],
    )
    return {entry.cell: entry for entry in found}


def usual(**changed: dict[str, float]) -> dict[str, Fit]:
    numbers = {
        "bits": {"rnn": 1.8, "lstm": 1.60, "gru": 1.62},
        "step_s": {"rnn": 1e-4, "lstm": 2e-4, "gru": 1.8e-4},
        "state": {"rnn": 100, "lstm": 200, "gru": 100},
        "reach": {"rnn": 0, "lstm": 64, "gru": 64},
    }
    return verdicts(**(numbers | changed))  # type: ignore[arg-type]


def test_the_usual_numbers() -> None:
    found = usual()
    assert found["rnn"].fits == "short memories on the tightest budget"
    assert found["lstm"].fits == "where quality counts most"
    assert found["gru"].fits.startswith("many sessions")
    assert "best text model (1.600 bits per byte)" in found["lstm"].strengths
    assert "2× the smallest state" in found["lstm"].weaknesses
    assert "within 1.2% of the best text model" in found["gru"].strengths
    assert "recalls nothing reliably" in found["rnn"].weaknesses
    assert "step takes 1.8× the fastest" in found["gru"].weaknesses
    assert "recalls over 64 and more steps" in found["gru"].strengths


def test_another_winner_gets_the_words() -> None:
    found = usual(bits={"rnn": 1.8, "lstm": 1.62, "gru": 1.60})
    assert found["gru"].fits == "where quality counts most"
    assert found["lstm"].fits == "where a step may cost more than its state"


def test_a_cell_that_is_best_and_cheapest_gets_it_all() -> None:
    found = usual(
        bits={"rnn": 1.5, "lstm": 1.6, "gru": 1.6}, reach={"rnn": 64, "lstm": 64, "gru": 64}
    )
    assert found["rnn"].fits == "all of it: best and cheapest"
    assert found["lstm"].weaknesses[0] == "6.7% more bits per byte than the best"


@pytest.mark.parametrize(("reach", "words"), [(8, "forgets beyond 8 steps"), (1, "beyond 1 step")])
def test_how_far_it_remembers(reach: int, words: str) -> None:
    found = usual(reach={"rnn": reach, "lstm": 64, "gru": 64})
    assert any(words in weakness for weakness in found["rnn"].weaknesses)
    assert f"recalls over {reach} step" in " ".join(found["rnn"].strengths)


def test_a_slow_cell_that_forgets_has_no_place() -> None:
    found = usual(step_s={"rnn": 3e-4, "lstm": 2e-4, "gru": 1e-4})
    assert found["rnn"].fits == "nothing measured here"


def test_a_cell_without_a_text_model_has_no_word_about_quality() -> None:
    bits = {"lstm": 1.60, "gru": 1.62}
    found = fits(
        [Structure(cell, "", 1, ("h",), 1, 8, 1, 1, 100, 1) for cell in ("lstm", "gru", "min_gru")],
        [Quality(cell, value, 0.5, 10, 1, 1.0) for cell, value in bits.items()],
        [
            Speed(cell, 1, seconds, 0.0, 1.0, 9, 1 / seconds)
            for cell, seconds in {"lstm": 2e-4, "gru": 2e-4, "min_gru": 1e-4}.items()
        ],
        [Recall(cell, 64, True, 1.0, 1.0, 1.0, 0.125) for cell in ("lstm", "gru", "min_gru")],
    )
    assert found[2].weaknesses == ("no trained text model",)
    assert found[2].fits == "cheap steps with a long memory"
    assert not any("text model" in words for words in found[2].strengths)
    assert found[0].fits == "where quality counts most"
