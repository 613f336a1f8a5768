"""Groups of equal rows."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from carousel_server.rows.row_set import alike


def test_nothing_has_no_groups() -> None:
    assert alike(np.empty(0, np.int64), np.empty(0, np.int64)) == []


def test_rows_are_alike_in_all_columns() -> None:
    groups = alike(np.asarray([1, 2, 1, 1]), np.asarray([7, 7, 8, 7]))
    assert sorted(group.tolist() for group in groups) == [[0, 3], [1], [2]]


@given(st.lists(st.tuples(st.integers(-2, 2), st.integers(0, 2), st.integers(0, 1)), min_size=1))
def test_every_row_is_in_one_group_with_its_likes(rows: list[tuple[int, int, int]]) -> None:
    groups = alike(*np.asarray(rows, np.int64).T)
    assert sorted(np.concatenate(groups).tolist()) == list(range(len(rows)))
    kinds = [{rows[i] for i in group.tolist()} for group in groups]
    assert all(len(kind) == 1 for kind in kinds)
    assert len(kinds) == len(set(rows))
    assert all(np.all(np.diff(group) > 0) for group in groups)
