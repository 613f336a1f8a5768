"""Gate blocks in our order."""

from __future__ import annotations

import numpy as np
import pytest

from carousel_models import PackageError
from carousel_models.cell_facts import FACTS
from carousel_models.importing.gates import ORDERS, in_our_order


def test_every_cell_has_an_order_of_its_gates() -> None:
    assert {cell: len(order) for cell, order in ORDERS.items()} == {
        cell: FACTS[cell].gates for cell in ORDERS
    }


@pytest.mark.parametrize(
    ("cell", "order", "negate", "expected"),
    [
        ("lstm", "ifgo", "", [1, 2, 3, 4]),
        ("lstm", "ifco", "", [1, 2, 3, 4]),
        ("lstm", "iofc", "", [1, 3, 4, 2]),
        ("gru", "zrh", "", [2, 1, 3]),
        ("gru_reset_before", "zrh", "z", [2, -1, 3]),
        ("rnn_tanh", "n", "", [1]),
    ],
)
def test_blocks(cell: str, order: str, negate: str, expected: list[int]) -> None:
    blocks = np.repeat(np.arange(1.0, len(order) + 1), 2)
    found = in_our_order(np.stack([blocks, 10 * blocks], axis=1), cell, order, negate)
    assert found[::2, 0].tolist() == expected
    assert found[1::2, 1].tolist() == [10 * value for value in expected]


def test_a_negated_zero_is_positive() -> None:
    zeros = in_our_order(np.zeros(6), "gru", "rzn", "z")
    assert not np.signbit(zeros).any()


@pytest.mark.parametrize(
    ("cell", "order", "negate", "rows", "message"),
    [
        ("lstm", "ifg", "", 8, "the gates 'ifg' are not those of lstm"),
        ("lstm", "iifo", "", 8, "are not those of lstm"),
        ("gru", "zrh", "f", 6, "gru has no gate 'f' to negate"),
        ("gru", "zrh", "", 8, "8 rows do not divide into the 3 gates of gru"),
        ("tanh", "n", "", 8, "there is no cell 'tanh'"),
    ],
)
def test_refusals(cell: str, order: str, negate: str, rows: int, message: str) -> None:
    with pytest.raises(PackageError, match=message):
        in_our_order(np.zeros(rows), cell, order, negate)
