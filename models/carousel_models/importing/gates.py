"""Gate blocks of other libraries in the order and the sign of ours. No torch."""

from __future__ import annotations

import numpy as np

from carousel_models.errors import PackageError
from carousel_models.lookup import entry

from .ops import Array

ORDERS = {
    "lstm": "ifgo",
    "gru": "rzn",
    "gru_reset_before": "rzn",
    "rnn_tanh": "n",
    "rnn_relu": "n",
}
"""Order of the gate blocks in our weights, one entry for each cell."""

NAMES = {"lstm": {"c": "g"}, "gru": {"h": "n"}, "gru_reset_before": {"h": "n"}}
"""Other letters of the same gates: Keras and ONNX call the candidates c and h."""


def in_our_order(array: Array, cell: str, order: str, negate: str = "") -> Array:
    """Gate blocks along the first axis, in our order.

    Args:
        array: [gates × hidden, …] with the blocks in the file's order.
        cell: the cell's name in a manifest.
        order: the file's order, a letter for each gate, such as "ifco" or "zrh".
        negate: letters of gates to negate. A GRU with h ← z∘h + (1−z)∘h̃ has z = 1 − ours. As
            1 − σ(a) = σ(−a), its z is negated in W, R and b.

    Raises:
        PackageError: the letters are not those of the cell, or the rows do not divide into its gates.
    """
    ours = entry(ORDERS, cell, "cell", PackageError, "use one of these")
    names = NAMES.get(cell, {})
    found = [names.get(letter, letter) for letter in order]
    if sorted(found) != sorted(ours):
        raise PackageError(
            f"the gates {order!r} are not those of {cell}; write each letter of {ours!r} once, in the "
            "order of the file"
        )
    negated = {names.get(letter, letter) for letter in negate}
    if not negated <= set(ours):
        raise PackageError(f"{cell} has no gate {negate!r} to negate; its gates are {ours!r}")
    if len(array) % len(ours):
        raise PackageError(
            f"{len(array)} rows do not divide into the {len(ours)} gates of {cell}; check the cell, or "
            "transpose the matrix"
        )
    blocks = dict(zip(found, np.split(array, len(ours)), strict=True))
    # 0 − x, because −x of a zero is −0.0, which would change the fingerprint.
    parts = [0.0 - blocks[gate] if gate in negated else blocks[gate] for gate in ours]
    return np.concatenate(parts)
