"""Axes are joined and separated by Reshapes as ONNX says, or not at all."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from carousel_models.importing.onnx_chain.axes import (
    Atom,
    Axes,
    Dim,
    dim_of,
    product,
    reshaped,
    size_of,
)

T, B, D, H, ONE = Atom("t", None), Atom("b", None), Atom("d", 2), Atom("h", 6), Atom("one", 1)
Y: Axes = ((T,), (B,), (D,), (H,))


@pytest.mark.parametrize(
    ("axes", "target", "expected"),
    [
        (Y, (0, 0, -1), ((T,), (B,), (D, H))),
        (Y, (0, 0, 12), ((T,), (B,), (D, H))),
        (Y, (-1, 12), ((T, B), (D, H))),
        (Y, (-1, 2, 6), ((T, B), (D,), (H,))),
        (Y, ((T,), (B,), 12), ((T,), (B,), (D, H))),
        (Y, ((T, B), -1), ((T, B), (D, H))),
        (Y, (9, -1, 12), ((T,), (B,), (D, H))),
        (((T, B), (D, H)), ((T,), (B,), 2, 6), Y),
        (((T, B), (H,)), ((T,), -1, 6), ((T,), (B,), (H,))),
        (((T,), (), (B,), (H,)), (0, 0, 0, 6), ((T,), (), (B,), (H,))),
        (((T,), (), (H,)), (0, -1), ((T,), (H,))),
        (((T,), (H,)), (0, 1, 6), ((T,), (), (H,))),
        (((T,), (ONE,), (H,)), (0, 1, 6), ((T,), (ONE,), (H,))),
        (((T,), (ONE,), (H,)), (0, 6), ((T,), (H,))),
        (((ONE,), (H,)), (1, -1), ((ONE,), (H,))),
        (((H,),), (6, 1), ((H,), ())),
        (((H,),), (2, 3), None),
        (((H,),), (-1, 4), None),
        (((D,), (H,)), (3, 4), None),
        (((T,), (H,)), ((B,), 6), None),
        (((T,), (H,)), (0, 0, 0), None),
        (((T,), (H,)), (6, 0), ((T,), (H,))),
        (((D,), (H,)), (2,), None),
    ],
)
def test_a_reshape_moves_whole_atoms(
    axes: Axes, target: Sequence[Dim], expected: Axes | None
) -> None:
    assert reshaped(axes, target) == expected


def test_zero_may_be_a_size() -> None:
    assert reshaped(Y, (0, 0, -1), zero_copies=False) is None


def test_sizes_are_numbers_where_they_are_known() -> None:
    assert (dim_of(()), dim_of((D, H)), dim_of((T, D))) == (1, 12, (T, D))
    assert (size_of((H,)), size_of((T,))) == (6, None)
    assert (product([2, 6]), product([1, (T,)]), product([(T,), (B,)])) == (12, (T,), (T, B))
    with pytest.raises(ValueError, match="a number times an open one"):
        product([2, (T,)])
