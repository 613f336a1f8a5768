"""A set of rows that is looked at instead of all slots."""

from __future__ import annotations

import numpy as np

from carousel_server.sessions.row_set import RowSet


def test_rows_stand_in_order_and_once() -> None:
    rows = RowSet(10)
    rows.add(np.asarray([7, 2]))
    rows.add(np.asarray([2, 5]))
    rows.add_row(7)
    rows.add_row(0)
    assert rows.where(np.ones(10)).tolist() == [0, 2, 5, 7]


def test_rows_without_anything_leave_and_may_come_back() -> None:
    rows, column = RowSet(4), np.asarray([1, 0, 1, 1])
    rows.add(np.asarray([0, 1, 2]))
    assert rows.where(column).tolist() == [0, 2]
    assert 1 not in rows
    column[1] = 1
    assert rows.where(column).tolist() == [0, 2], "it came back without being added"
    rows.add(np.asarray([1]))
    assert rows.where(column).tolist() == [0, 1, 2]


def test_what_counts_as_nothing_can_be_said() -> None:
    rows = RowSet(3)
    rows.add(np.arange(3))
    assert rows.where(np.asarray([np.inf, 0.0, 1.0]), np.inf).tolist() == [1, 2]
