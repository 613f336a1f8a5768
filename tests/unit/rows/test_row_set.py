"""A set of rows that is looked at instead of all slots."""

from __future__ import annotations

import numpy as np

from carousel_server.rows.row_set import RowSet

LOOKS = 9
"""After so many looks in turn at which most rows have nothing to do, these leave."""


def test_rows_stand_in_order_and_once() -> None:
    rows = RowSet(10)
    rows.add(np.asarray([7, 2]))
    rows.add(np.asarray([2, 5]))
    rows.add_row(7)
    rows.add_row(0)
    assert rows.where(np.ones(10)).tolist() == [0, 2, 5, 7]


def test_rows_without_anything_are_not_shown() -> None:
    rows, column = RowSet(4), np.asarray([1, 0, 1, 1])
    rows.add(np.asarray([0, 1, 2]))
    assert rows.where(column).tolist() == [0, 2]
    column[1] = 1
    rows.add(np.asarray([1]))
    assert rows.where(column).tolist() == [0, 1, 2]


def test_rows_leave_when_most_have_nothing() -> None:
    rows, column = RowSet(1000), np.zeros(1000)
    rows.add(np.arange(1000))
    column[:200] = 1
    for _ in range(LOOKS):
        assert 200 in rows
        assert len(rows.where(column)) == 200
    assert 199 in rows
    assert 200 not in rows
    column[200] = 1
    rows.add(np.asarray([200]))
    assert rows.where(column).tolist() == list(range(201))


def test_rows_that_always_step_together_do_not_leave() -> None:
    rows, column = RowSet(1000), np.zeros(1000)
    rows.add(np.arange(1000))
    for _ in range(2 * LOOKS):
        column[:] = 0
        assert not len(rows.where(column))
        column[:900] = 1
        assert len(rows.where(column)) == 900
        assert 999 in rows


def test_what_counts_as_nothing_can_be_said() -> None:
    rows = RowSet(3)
    rows.add(np.arange(3))
    assert rows.where(np.asarray([np.inf, 0.0, 1.0]), np.inf).tolist() == [1, 2]
