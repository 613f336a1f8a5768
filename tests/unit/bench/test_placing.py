"""The simulation of the placement: its hashes are the product's, and its fleet keeps the rates."""

from __future__ import annotations

import json
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
from bench.placing import churn, picture, tables
from bench.placing.figure import balance
from bench.placing.fleet import Fleet, Rates
from bench.placing.schemes import SCHEMES, addresses, ranks, session_hashes

from carousel_protos.placement import placed_all, ranked

RESULTS = tables.ROOT / "bench" / "results"
RATES = Rates(moves_per_s=20, shared=True, drains_per_s=200, takes_per_s=100)
N, SESSIONS = 8, 4000
HASHES = session_hashes(SESSIONS)


def fleet(n=N, newcomers=1, rates=RATES):
    accepting = np.arange(n + newcomers) < n
    return Fleet(ranks(HASHES, addresses(n + newcomers), 4), accepting, rates)


def at_home(fleet):
    everyone = np.arange(len(fleet.where))
    return bool((fleet.where == fleet.owners(everyone, fleet.accepting)).all())


def most_within_a_second(instants):
    ordered = np.sort(instants)
    return int((np.searchsorted(ordered, ordered + 1.0) - np.arange(len(ordered))).max())


def test_sessions_are_placed_as_by_the_product():
    ids = [f"s{i}" for i in range(SESSIONS)]
    names = addresses(N)
    assert (SCHEMES["rendezvous"](HASHES, names) == placed_all(ids, names)).all()
    for number in range(0, SESSIONS, 97):
        best = [names[i] for i in ranks(HASHES, names, 4)[number]]
        assert best == ranked(ids[number], names)[:4]


@pytest.mark.parametrize("scheme", [name for name in SCHEMES if name != "modulo"])
def test_only_the_newcomer_gets_sessions(scheme):
    names = addresses(N + 1)
    before, after = SCHEMES[scheme](HASHES, names[:N]), SCHEMES[scheme](HASHES, names)
    moved = before != after
    assert 0 < moved.mean() < 2 / (N + 1)
    assert (after[moved] == N).all()


def test_a_remainder_moves_nearly_all():
    assert balance("modulo", N, SESSIONS)["moved_share"] > 0.8
    assert balance("rendezvous", N, SESSIONS)["moved_over_ideal"] == pytest.approx(1, abs=0.2)


def test_an_even_spread_has_no_fullest_replica():
    found = balance("rendezvous", N, SESSIONS)
    assert found["min_over_mean"] <= 1 <= found["p99_over_mean"] <= found["max_over_mean"] < 1.25


def test_a_newcomer_gets_its_sessions_at_the_rate():
    replicas = fleet()
    replicas.start(N)
    plan = replicas.plan
    assert (plan.targets == N).all()
    assert most_within_a_second(plan.at_s) <= RATES.moves_per_s * 1.5 + N
    replicas.advance(replicas.settled_s())
    assert at_home(replicas)
    assert len(np.concatenate(replicas.waits_s)) == len(plan.sessions)


def test_givers_alone_overrun_a_newcomer():
    shared, givers = (
        churn.join(fleet(rates=Rates(20, shared=one, drains_per_s=200, takes_per_s=100)), N)
        for one in (True, False)
    )
    assert givers["rebalance_s"] < shared["rebalance_s"]
    assert givers["queue_p99_ms"] > 10 * shared["queue_p99_ms"]


def test_no_replica_gives_faster_than_it_may():
    replicas = fleet(rates=Rates(20, shared=False, drains_per_s=200, takes_per_s=100))
    replicas.start(N)
    givers = replicas.where[replicas.plan.sessions]
    for giver in range(N):
        assert most_within_a_second(replicas.plan.at_s[givers == giver]) <= 20 + 1


def test_a_drained_replica_has_nothing():
    replicas = fleet()
    had = int((replicas.where == 2).sum())
    until_s = replicas.drain(2)
    assert until_s == pytest.approx((had - 1) / RATES.drains_per_s)
    replicas.advance(until_s)
    assert not (replicas.where == 2).any()
    assert at_home(replicas)


def test_a_crash_costs_the_lease_and_the_activations():
    replicas = fleet()
    lost = int((replicas.where == 2).sum())
    done_s = replicas.crash(2)
    assert RATES.lease_s < done_s < RATES.lease_s + lost / RATES.takes_per_s
    assert at_home(replicas)


def test_who_is_where_between_two_events():
    replicas = fleet()
    replicas.start(N)
    everyone = np.arange(SESSIONS)
    middle_s = replicas.settled_s() / 2
    told = replicas.where_at(everyone, middle_s)
    replicas.advance(middle_s)
    assert (replicas.where == told).all()
    assert 0 < (told == N).sum() < len(np.concatenate([[0], *replicas.waits_s])) + 1


@pytest.mark.parametrize("settle", [False, True])
def test_after_a_rolling_restart_all_are_at_home(settle):
    replicas = fleet()
    found = churn.rolling_restart(replicas, settle=settle)
    assert at_home(replicas)
    assert replicas.accepting.tolist() == [True] * N + [False]
    assert found["moves_per_session"] == pytest.approx(2, abs=0.1)
    assert found["minutes"] * 60 >= N * churn.RESTART_S
    lags = [found[f"redirected_share_{lag}_s"] for lag in (0, *churn.LAGS_S)]
    assert all(0 < lag < 0.5 for lag in lags)


def test_a_restart_that_waits_has_fewer_redirects():
    waits, hurries = (churn.rolling_restart(fleet(), settle=one) for one in (True, False))
    assert waits["redirected_share_5_s"] < hurries["redirected_share_5_s"]
    assert waits["minutes"] > hurries["minutes"]


def test_a_queue_is_served_in_order():
    replicas = fleet(rates=Rates(20, shared=True, drains_per_s=1e6, takes_per_s=10))
    mine = np.flatnonzero(replicas.where == 0)
    replicas.advance(replicas.drain(0))
    (waits_s,) = replicas.waits_s
    # All come at once; each taker does one in a tenth of a second.
    per_taker = np.bincount(replicas.where[mine])
    assert waits_s.max() == pytest.approx(per_taker.max() / 10, abs=0.02)
    assert waits_s.min() == pytest.approx(0.1, abs=0.02)


def test_the_guide_has_the_tables_of_the_results():
    page = tables.PAGE.read_text(encoding="utf-8")
    assert tables.filled(page) == page, "run python -m bench.placing.tables"
    assert re.findall(r"<!-- table: (\w+) -->", page) == list(tables.TABLES)
    for table in tables.TABLES.values():
        assert table() in page


def test_the_picture_can_be_drawn(tmp_path):
    figures = json.loads((RESULTS / "placement-cpu.json").read_text())["figures"]
    picture.draw(figures)
    plt.savefig(tmp_path / "picture.png")
    plt.close("all")
    assert (tmp_path / "picture.png").stat().st_size > 10_000
