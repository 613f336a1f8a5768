"""Placement: what every client and server must agree on, and what rendezvous hashing promises."""

from __future__ import annotations

from collections import Counter

import pytest

from carousel_protos.placement import hashed, placed, placed_all, ranked, scores_at

ADDRESSES = [f"10.0.0.{i}:50051" for i in range(1, 6)]
SESSIONS = [f"session-{i}" for i in range(5000)]

VECTORS = [
    ("s1", ["a:50051"], "a:50051"),
    ("s1", ["a:50051", "b:50051", "c:50051"], "c:50051"),
    ("s2", ["a:50051", "b:50051", "c:50051"], "c:50051"),
    ("Grüße", ["10.0.0.1:1", "10.0.0.2:1", "[::1]:1"], "10.0.0.2:1"),
]
"""Fixed for ever: a client of another version or language must place alike."""


@pytest.mark.parametrize(("session", "addresses", "place"), VECTORS)
def test_vectors(session, addresses, place):
    assert placed(session, addresses) == place
    assert addresses[placed_all([session], addresses)[0]] == place


def test_the_order_of_the_addresses_does_not_matter():
    for session in SESSIONS[:50]:
        assert ranked(session, ADDRESSES) == ranked(session, ADDRESSES[::-1])


def test_many_at_once_are_placed_as_one_by_one():
    at_once = [ADDRESSES[i] for i in placed_all(SESSIONS, ADDRESSES)]
    assert at_once == [placed(one, ADDRESSES) for one in SESSIONS]


def test_scores_tell_who_is_before_whom():
    scores = [int(scores_at(hashed(["s1"]), one)[0]) for one in ADDRESSES]
    by_score = sorted(ADDRESSES, key=lambda one: scores[ADDRESSES.index(one)], reverse=True)
    assert by_score == ranked("s1", ADDRESSES)


def test_the_sessions_are_spread_evenly():
    counts = Counter(placed(one, ADDRESSES) for one in SESSIONS)
    fair = len(SESSIONS) / len(ADDRESSES)
    # Five standard deviations of a fair draw.
    most = 5 * (fair * (1 - 1 / len(ADDRESSES))) ** 0.5
    assert all(abs(counts[one] - fair) < most for one in ADDRESSES)


def test_a_server_that_goes_moves_its_own_sessions_only():
    left = ADDRESSES[:-1]
    for session in SESSIONS[:500]:
        before = placed(session, ADDRESSES)
        after = placed(session, left)
        assert after == (before if before in left else ranked(session, ADDRESSES)[1])
