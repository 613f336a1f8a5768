"""Every recipe, for a handful of steps: the loss falls, and what comes out is a package that loads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from models.recipes import forecast, pychar, pytag
from models.recipes.lexical import LABELS
from models.recipes.series import SERIES
from models.recipes.training import WARM_UP_STEPS, Budget, learning_rate, optimise

import carousel_models
from carousel_models.compare.corpus import Corpus, SourceFile, standard_library


@pytest.fixture(scope="module")
def corpora() -> tuple[Corpus, Corpus]:
    training, held_out = standard_library()
    return training.sample(60_000), held_out.sample(6_000)


def falls(losses: list[float]) -> bool:
    third = len(losses) // 3
    return float(np.mean(losses[-third:])) < 0.9 * float(np.mean(losses[:third]))


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru", "min_gru", "mlstm"])
def test_pychar(cell: str, corpora: tuple[Corpus, Corpus], tmp_path: Path) -> None:
    plan = pychar.Plan(hidden=48, lanes=16, truncation=16, precision="float32", peak_rate=2e-2)
    model, record = pychar.train(cell, corpora[0].joined(), Budget(60), plan)
    assert falls(record.losses)
    quality = pychar.write(tmp_path, cell, model, record, plan, corpora)
    served = carousel_models.load(tmp_path / f"pychar-{cell}")
    assert served.generative
    assert served.manifest.tokenizer == "bytes"
    assert served.manifest.training["quality"] == quality
    assert served.manifest.training["steps"] == 60
    assert quality["bits_per_byte"] < 8


def test_pytag(corpora: tuple[Corpus, Corpus], tmp_path: Path) -> None:
    plan = pytag.Plan(hidden=12, layers=1, batch=8, crop=64, precision="float32", peak_rate=3e-2)
    model, record = pytag.train(pytag.tagged(corpora[0]), Budget(60), plan)
    assert falls(record.losses)
    quality = pytag.write(tmp_path, model, record, plan, corpora)
    served = carousel_models.load(tmp_path / "pytag-bilstm")
    assert not served.causal
    assert served.manifest.labels == LABELS
    assert quality["accuracy"] > quality["baseline_majority_accuracy"]


@pytest.mark.parametrize("name", sorted(SERIES))
def test_forecast(name: str, tmp_path: Path) -> None:
    series = SERIES[name]()
    plan = forecast.Plan(hidden=8, batch=4, window=32, peak_rate=3e-2, swing=0.1)
    model, record = forecast.train(series, Budget(60), plan)
    assert falls(record.losses)
    forecast.write(tmp_path, series, model, record, plan)
    served = carousel_models.load(tmp_path / f"{name}-gru")
    # The package speaks the series' unit: it must equal the module between the two conversions.
    mean, std = forecast.constants(series)
    rows = torch.from_numpy(series.rows)
    with torch.inference_mode():
        expected = model(((rows - mean) / std)[:, None])[:, 0] * std[0] + mean[0]
        raw, _ = served.sequence(rows[None], torch.tensor([len(rows)]))
    np.testing.assert_allclose(raw[0, :, 0].numpy(), expected.numpy(), rtol=1e-4, atol=1e-3)


def test_no_forecaster_sees_a_held_out_row() -> None:
    series = SERIES["sunspots"]()
    poisoned = series.rows.copy()
    poisoned[series.held_out_from :] = np.nan
    plan = forecast.Plan(hidden=4, batch=64, window=series.held_out_from - 2)
    blind = replace(series, rows=poisoned)
    _, record = forecast.train(blind, Budget(5), plan)
    assert np.isfinite(record.losses).all()
    assert torch.equal(forecast.constants(blind)[0], forecast.constants(series)[0])


def test_the_same_seed_trains_the_same_model() -> None:
    plan = pychar.Plan(hidden=8, lanes=4, truncation=8, precision="float32")
    text = b"def f(x):\n    return x\n" * 40
    runs = [pychar.train("gru", text, Budget(5), plan)[1].losses for _ in range(2)]
    assert runs[0] == runs[1]
    assert pychar.train("gru", text, Budget(5), replace(plan, seed=2))[1].losses != runs[0]


def test_windows_read_on_where_they_stopped_and_come_round() -> None:
    text = bytes(range(40))
    stream = pychar.windows(text, lanes=2, truncation=6)
    first, second = next(stream), next(stream)
    assert first[:, 0].tolist() == list(range(7))
    assert first[:, 1].tolist() == list(range(20, 27))
    assert second[0].tolist() == first[-1].tolist()
    for _ in range(2):
        window = next(stream)
    assert window[:, 1].tolist() == [38, 39, 0, 1, 2, 3, 4]


def test_the_tagger_leaves_out_what_it_cannot_tokenize() -> None:
    files = (SourceFile("good.py", b"x = 1\n"), SourceFile("bad.py", b"x = (\n"))
    (tagged,) = pytag.tagged(Corpus(files))
    assert len(tagged[0]) == len(tagged[1]) == 6


def test_the_rate_warms_up_and_falls() -> None:
    assert learning_rate(1.0, 0, 0.0) == pytest.approx(1 / WARM_UP_STEPS)
    assert learning_rate(1.0, WARM_UP_STEPS, 0.0) == 1.0
    assert learning_rate(1.0, 10**6, 0.5) == pytest.approx(0.515)
    assert learning_rate(1.0, 10**6, 2.0) == pytest.approx(0.03)


def test_a_budget_ends_by_steps_or_by_time() -> None:
    module = torch.nn.Linear(1, 1)

    def losses() -> Iterator[torch.Tensor]:
        while True:
            yield module(torch.ones(1, 1)).square().sum()

    assert optimise(module, losses(), Budget(7), peak_rate=0.1).steps == 7
    assert optimise(module, losses(), Budget(10**9, 1e-9), peak_rate=0.1).steps == 1
    with pytest.raises(ValueError, match="at least one step"):
        Budget(0)
