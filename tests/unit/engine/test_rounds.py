"""Rows of pipelined blocks in rounds."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from carousel_server.engine.rounds import Rounds

Pairs = list[tuple[int, int]]
"""Sessions with the first seqs of their rows, in order of arrival."""

pairs = st.lists(st.tuples(st.integers(0, 4), st.integers(1, 6)), min_size=1, max_size=30)


def rounds_of(rows: Pairs) -> Rounds:
    sessions, firsts = np.asarray(rows, np.int64).T
    return Rounds(sessions, firsts)


def taken(rounds: Rounds) -> list[list[int]]:
    found = []
    while len(places := rounds.take()):
        found.append(places.tolist())
    return found


@given(pairs)
def test_a_round_has_the_next_row_of_each_session(rows: Pairs) -> None:
    found = taken(rounds_of(rows))
    assert sorted(place for places in found for place in places) == list(range(len(rows)))
    for number, places in enumerate(found):
        for place in places:
            before = [session for session, _ in rows[:place]]
            assert before.count(rows[place][0]) == number


@given(pairs, st.lists(st.integers(1, 6), min_size=5, max_size=5), st.integers(0, 3))
def test_rows_are_behind_where_none_that_is_left_helps(
    rows: Pairs, needed: list[int], number: int
) -> None:
    rounds = rounds_of(rows)
    used = {place for _ in range(number) for place in rounds.take().tolist()}
    behind = rounds.take_behind(np.asarray([needed[row] for row in rounds.sessions], np.int64))
    left = [place for place in range(len(rows)) if place not in used]
    expected = [
        place
        for place in left
        if all(
            rows[other][1] > needed[rows[place][0]]
            for other in left
            if rows[other][0] == rows[place][0]
        )
    ]
    assert behind.tolist() == expected
    rest = [place for places in taken(rounds) for place in places]
    assert sorted(rest) == sorted(set(left) - set(expected))
