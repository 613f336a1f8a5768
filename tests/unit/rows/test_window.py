"""The window's rings: an entry lives until window_steps later."""

from __future__ import annotations

import numpy as np
import pytest

from carousel_server.rows.window import Entries, Window


def at(*values: int) -> np.ndarray:
    return np.asarray(values, np.int64)


def test_entries_wrap_around_and_rows_do_not_mix() -> None:
    window = Window(slots=2, steps=4, input_row_bytes=1, output_row_bytes=2)
    never = np.full(2, np.inf)
    for first in (1, 4, 7):
        inputs = np.asarray([[[first], [first + 1], [first + 2]], [[90], [91], [92]]], np.uint8)
        window.write_inputs(at(0, 1), at(first, first), inputs, never, never)
        got = window.inputs[window.at(at(0, 1), at(first, first), 3)]
        assert got[0, :, 0].tolist() == [first, first + 1, first + 2]
        assert got[1, :, 0].tolist() == [90, 91, 92]
    outputs = np.asarray([[[1, 2], [3, 4]]], np.uint8)
    window.outputs[window.at(at(0), at(4), 2)] = outputs
    assert window.outputs[window.at(at(0), at(4), 2)].tolist() == [[[1, 2], [3, 4]]]
    assert not window.outputs[window.at(at(1), at(4), 2)].any()


def test_what_is_read_is_a_copy() -> None:
    window = Window(1, 4, 1, 1)
    window.inputs[window.at(at(0), at(1), 2)][:] = 7
    window.outputs[window.at(at(0), at(1), 2)][:] = 7
    assert not window.inputs[window.at(at(0), at(1), 2)].any()
    assert not window.outputs[window.at(at(0), at(1), 2)].any()


def test_times_stand_beside_the_steps() -> None:
    window = Window(2, 4, 1, 1)
    window.write_inputs(
        at(1), at(3), np.zeros((1, 2, 1), np.uint8), np.asarray([5.0]), np.asarray([9.0])
    )
    assert window.arrived_s[window.at(at(1), at(3), 2)].tolist() == [[5.0, 5.0]]
    assert window.deadline_s[window.at(at(1), at(4), 1)].tolist() == [[9.0]]


def test_a_step_is_late_by_its_own_deadline_only() -> None:
    window = Window(2, 4, 1, 1)
    rows, inputs, now = at(0, 1), np.zeros((2, 1, 1), np.uint8), np.zeros(2)
    window.write_inputs(rows, at(1, 1), inputs, now)
    assert not window.has_deadlines
    assert window.late(rows, at(1, 1), 4, 99.0) is None
    window.write_inputs(rows, at(2, 2), inputs, now, np.asarray([9.0, np.inf]))
    assert window.late(rows, at(1, 1), 2, 8.0) is None
    late = window.late(rows, at(1, 1), 2, 9.0)
    assert late is not None
    assert late.tolist() == [[False, True], [False, False]]
    window.write_inputs(rows, at(6, 6), inputs, now)  # where step 2 stood
    assert window.late(rows, at(6, 6), 1, 99.0) is None


def test_entries_are_bytes_of_any_width() -> None:
    entries = Entries(4, 3)
    rows = np.arange(24, dtype=np.uint8).reshape(2, 2, 6)[:, :, ::2]  # not contiguous
    index = np.asarray([[3, 0], [1, 2]])
    entries[index] = rows
    assert entries[index].tolist() == rows.tolist()
    assert entries[index[:, :0]].shape == (2, 0, 3)


def test_fit_is_the_greatest_power_of_two_within_the_budget() -> None:
    assert Window.fit(10, 100, 83, 10**9) == 64
    assert Window.fit(10, 100, 83, 9 * 1000) == 8
    with pytest.raises(ValueError, match="lower `slots`"):
        Window.fit(10, 100, 83, 999)


def test_a_reset_stands_beside_its_step_until_that_is_overwritten() -> None:
    window = Window(2, 4, 1, 1)
    never, rows = np.full(2, np.inf), at(0, 1)
    inputs = np.zeros((2, 2, 1), np.uint8)
    assert window.resets_in(rows, at(1, 1), 4) is None
    resets = np.asarray([[False, True], [False, False]])
    window.write_inputs(rows, at(1, 1), inputs, never, never, resets)
    found = window.resets_in(rows, at(1, 1), 4)
    assert found is not None
    assert found.tolist() == [[False, True, False, False], [False] * 4]
    assert window.resets_in(at(1), at(1), 4) is None
    window.write_inputs(rows, at(3, 3), inputs, never, never)
    assert window.resets_in(rows, at(2, 2), 1) is not None
    window.write_inputs(rows, at(6, 6), inputs, never, never)  # where step 2 stood
    assert window.resets_in(rows, at(3, 3), 4) is None


def test_a_step_that_is_no_client_s_can_start_over_too() -> None:
    window = Window(2, 4, 1, 1)
    window.start_over(1, 7)
    assert window.resets_in(at(0, 1), at(7, 7), 1) is not None
    window.forget_resets(at(0, 1))
    assert window.resets_in(at(0, 1), at(1, 1), 4) is None
    assert not window.resets.any()
