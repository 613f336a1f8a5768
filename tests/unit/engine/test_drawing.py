"""Random numbers by counter, and tokens drawn by them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from carousel_server.engine.philox import philox4x32, uniform
from carousel_server.engine.sampler import SamplingRows, log_probabilities, sample

FULL = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        # Known answers published with the Random123 library for philox4x32, 10 rounds.
        ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([FULL] * 4, [FULL] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_gives_the_published_answers(
    counter: list[int], key: list[int], expected: list[int]
) -> None:
    got = philox4x32(np.asarray([counter], np.uint64), np.asarray([key], np.uint64))
    assert got[0].tolist() == expected


def test_a_draw_depends_on_seed_and_position_only() -> None:
    seeds = np.asarray([1, 1, 2, 2**63], np.uint64)
    positions = np.asarray([1, 2, 1, 2**40], np.uint64)
    together = uniform(seeds, positions)
    alone = [uniform(seeds[i : i + 1], positions[i : i + 1])[0] for i in range(4)]
    assert together.tolist() == alone
    assert len(set(alone)) == 4


def test_draws_are_uniform() -> None:
    n = 100_000
    draws = uniform(np.full(n, 42, np.uint64), np.arange(n, dtype=np.uint64))
    assert draws.min() >= 0
    assert draws.max() < 1
    counts = np.bincount((draws * 20).astype(int), minlength=20)
    chi_squared = ((counts - n / 20) ** 2 / (n / 20)).sum()
    assert chi_squared < 43.8  # 0.1 % point for 19 degrees of freedom; the draws are fixed


def rows(n: int, **changed: Any) -> SamplingRows:
    plain = {
        "temperature": np.ones(n),
        "top_k": np.zeros(n, np.int64),
        "top_p": np.ones(n),
        "penalty": np.ones(n),
        "uniform": np.full(n, 0.5),
        "recent": np.full((n, 4), -1, np.int32),
    }
    return SamplingRows(**(plain | {k: np.asarray(v) for k, v in changed.items()}))


LOGITS = torch.log(torch.tensor([[0.1, 0.2, 0.3, 0.4]]))


def drawn(**changed: Any) -> int:
    return int(sample(LOGITS, rows(1, **{k: [v] for k, v in changed.items()}))[0])


def test_greedy_takes_the_most_probable() -> None:
    assert drawn(temperature=0.0, uniform=0.0) == 3


@pytest.mark.parametrize(
    ("u", "token"), [(0.0, 0), (0.09, 0), (0.11, 1), (0.29, 1), (0.31, 2), (0.61, 3), (0.999, 3)]
)
def test_plain_draws_invert_the_cumulative_distribution(u: float, token: int) -> None:
    assert drawn(uniform=u) == token


@pytest.mark.parametrize(("u", "token"), [(0.0, 3), (0.56, 3), (0.58, 2), (0.999, 2)])
def test_top_k_keeps_k(u: float, token: int) -> None:
    assert drawn(top_k=2, uniform=u) == token


@pytest.mark.parametrize(
    ("top_p", "u", "token"), [(0.3, 0.999, 3), (0.5, 0.999, 2), (0.71, 0.999, 1), (0.0, 0.9, 3)]
)
def test_top_p_keeps_the_smallest_sufficient_set(top_p: float, u: float, token: int) -> None:
    assert drawn(top_p=top_p, uniform=u) == token


def test_temperature_sharpens() -> None:
    p = np.asarray([0.1, 0.2, 0.3, 0.4]) ** 2
    edge = p[:3].sum() / p.sum()
    assert drawn(temperature=0.5, uniform=edge - 0.01) == 2
    assert drawn(temperature=0.5, uniform=edge + 0.01) == 3


def test_the_penalty_divides_and_multiplies() -> None:
    logits = torch.tensor([[2.0, -1.0, 1.5, -1.5]])
    settings_ = rows(
        1, penalty=[2.0], recent=np.asarray([[0, 1, -1, -1]], np.int32), temperature=[0.0]
    )
    assert int(sample(logits, settings_)[0]) == 2
    assert logits.tolist() == [[2.0, -1.0, 1.5, -1.5]], "the argument is left alone"


def test_frequencies_follow_the_probabilities() -> None:
    n = 20_000
    u = uniform(np.full(n, 1, np.uint64), np.arange(n, dtype=np.uint64))
    for extra in ({}, {"top_p": np.full(n, 0.9999)}):
        tokens = sample(LOGITS.expand(n, 4), rows(n, uniform=u, **extra))
        share = np.bincount(tokens.numpy(), minlength=4) / n
        assert np.abs(share - [0.1, 0.2, 0.3, 0.4]).max() < 0.015


def test_log_probabilities_are_normalised_and_ordered() -> None:
    drawn_, values, ids = log_probabilities(LOGITS, torch.tensor([1]), 3)
    assert drawn_.exp().item() == pytest.approx(0.2)
    assert values.exp().tolist()[0] == pytest.approx([0.4, 0.3, 0.2])
    assert ids.tolist() == [[3, 2, 1]]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_rows_token_does_not_depend_on_its_neighbours(data: st.DataObject) -> None:
    n = data.draw(st.integers(2, 8))
    seed = data.draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(0, 3, (n, 50)).astype(np.float32))
    settings_ = rows(
        n,
        temperature=rng.choice([0.0, 0.7, 1.0], n),
        top_k=rng.choice([0, 1, 5], n),
        top_p=rng.choice([0.5, 0.9, 1.0], n),
        penalty=rng.choice([1.0, 1.5], n),
        uniform=rng.random(n),
        recent=rng.integers(-1, 50, (n, 4)).astype(np.int32),
    )
    together = sample(logits, settings_)
    for i in range(n):
        only = SamplingRows(
            *(getattr(settings_, f)[i : i + 1] for f in SamplingRows.__dataclass_fields__)
        )
        assert int(sample(logits[i : i + 1], only)[0]) == int(together[i])
