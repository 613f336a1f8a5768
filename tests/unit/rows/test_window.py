"""The window's rings: an entry lives until window_steps later."""

from __future__ import annotations

import numpy as np
import pytest

from carousel_server.rows.window import Window


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


def test_fit_is_the_greatest_power_of_two_within_the_budget() -> None:
    assert Window.fit(10, 100, 84, 10**9) == 64
    assert Window.fit(10, 100, 84, 9 * 1000) == 8
    with pytest.raises(ValueError, match="lower `slots`"):
        Window.fit(10, 100, 84, 999)
