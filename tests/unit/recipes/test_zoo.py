"""The shipped packages: small, sound, and as good as they say, measured again on a sample."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from models.recipes import forecast, pytag
from models.recipes.series import SERIES

import carousel_models
from carousel_models.compare.corpus import Corpus, standard_library
from carousel_models.compare.quality import text_quality

ZOO = carousel_models.zoo_path()
PYCHAR = ("pychar-gru", "pychar-lstm", "pychar-rnn")
NAMES = ("elnino-gru", *PYCHAR, "pytag-bilstm", "sunspots-gru")
MOST_BYTES = 3_000_000
SAMPLE_TOLERANCE = 0.10
"""A sample of other files, perhaps of another Python version, differs from the whole by less than this."""


@pytest.fixture(scope="module")
def held_out() -> Corpus:
    return standard_library()[1].sample(120_000)


def quality_of(model: carousel_models.RecurrentModel) -> dict[str, float]:
    quality = model.manifest.training["quality"]
    assert isinstance(quality, dict)
    return {key: float(str(value)) for key, value in quality.items()}


def test_the_zoo_is_complete() -> None:
    assert tuple(path.name for path in carousel_models.discover(ZOO)) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_package_is_small_sound_and_says_how_it_was_made(name: str) -> None:
    path = ZOO / name
    assert sum(file.stat().st_size for file in path.iterdir()) <= MOST_BYTES
    report = carousel_models.check(path)
    assert report.ok, report.error
    assert report.manifest is not None
    training = report.manifest.training
    assert str(training["recipe"]).startswith("python -m models.recipes.")
    assert {"plan", "steps", "wall_s", "data", "quality"} <= training.keys()


def test_the_language_models_differ_in_their_cell_only() -> None:
    trainings = [carousel_models.read_manifest(ZOO / name).training for name in PYCHAR]
    for key in ("plan", "steps", "data_sha256", "held_out_sha256"):
        assert trainings[0][key] == trainings[1][key] == trainings[2][key]


@pytest.mark.parametrize("name", PYCHAR)
def test_language_models_reach_what_they_say(name: str, held_out: Corpus) -> None:
    model = carousel_models.load(ZOO / name)
    recorded = quality_of(model)
    found = text_quality(model, name, held_out)
    assert found.bits_per_byte == pytest.approx(recorded["bits_per_byte"], rel=SAMPLE_TOLERANCE)
    assert found.bits_per_byte < 0.6 * recorded["baseline_bigram_bits_per_byte"]


def test_the_tagger_reaches_what_it_says(held_out: Corpus) -> None:
    model = carousel_models.load(ZOO / "pytag-bilstm")
    recorded, found = quality_of(model), pytag.measure(model, held_out.sample(30_000))
    assert found["accuracy"] == pytest.approx(recorded["accuracy"], abs=0.03)
    assert found["macro_f1"] == pytest.approx(recorded["macro_f1"], abs=0.05)
    assert found["accuracy"] > 3 * found["baseline_majority_accuracy"]


@pytest.mark.parametrize("name", sorted(SERIES))
def test_forecasters_reach_what_they_say_and_beat_both_baselines(name: str) -> None:
    series = SERIES[name]()
    model = carousel_models.load(ZOO / f"{name}-gru")
    recorded, found = quality_of(model), forecast.measure(model, series)
    assert found == pytest.approx(recorded, rel=1e-3)
    assert found["rmse"] < found["baseline_last_value_rmse"]
    assert found["rmse"] < found["baseline_seasonal_rmse"]


@pytest.mark.parametrize("name", sorted(SERIES))
def test_example_rows_are_the_series(name: str) -> None:
    series = SERIES[name]()
    path: Path = ZOO / f"{name}-gru" / "example.csv"
    assert path.read_text().splitlines()[0].split(",") == list(series.columns)
    rows = np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2, dtype=np.float32)
    np.testing.assert_array_equal(rows, series.rows)
