"""The judge finds each way in which outputs can be wrong, and counts it."""

from __future__ import annotations

import pytest

from tests.cluster.oracle import Verdict, judge

EXPECTED = "abcdefgh"


def verdict(got: str, asked: int = 8) -> Verdict:
    return judge("s", got, EXPECTED, asked)


@pytest.mark.parametrize("got", ["abcdefgh", "abc", ""])
def test_outputs_in_their_places_hold(got: str) -> None:
    assert verdict(got, asked=len(got)) == Verdict("s", len(got))
    assert verdict(got, asked=len(got)).holds


@pytest.mark.parametrize(
    ("got", "lost", "doubled", "wrong"),
    [
        ("abdefgh", 1, 0, 0),
        ("bcdefgh", 1, 0, 0),
        ("aefgh", 3, 0, 0),
        ("abcdefg", 1, 0, 0),
        ("abccdefgh", 0, 1, 0),
        ("abcabcdefgh", 0, 3, 0),
        ("abcdefghh", 0, 1, 0),
        ("abXdefgh", 0, 0, 1),
        ("XXXXXXXX", 0, 0, 8),
        ("bacdefgh", 1, 1, 0),
        ("abbXdefh", 1, 1, 1),
    ],
)
def test_each_difference_is_counted(got: str, lost: int, doubled: int, wrong: int) -> None:
    found = verdict(got)
    assert (found.lost, found.doubled, found.wrong) == (lost, doubled, wrong)
    assert not found.holds
    assert found.first


def test_the_first_difference_is_named() -> None:
    assert verdict("abdefgh").first == "output 3 of 7 is not number 3 of s"
    assert verdict("abc").first == "5 of 8 outputs of s never came"


def test_outputs_behind_the_end_are_wrong_or_doubled() -> None:
    assert verdict("abcdefghX").wrong == 1
    assert verdict("abcdefgha").doubled == 1


def test_equal_outputs_of_one_session_are_told_apart_by_their_places() -> None:
    assert judge("s", "abab", "ababc", 4).holds
    assert judge("s", "abaab", "ababc", 4).doubled == 1
