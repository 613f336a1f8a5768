"""Recurrent layers of Keras as operations. No torch.

Sources of the equations: keras.layers.LSTM, GRU and SimpleRNN of Keras 3, and for CuDNNLSTM and CuDNNGRU the
conversion of Keras 2.2, `_convert_rnn_weights`. Kernels are [in, gates × units], gates in the order i f c o
and z r h.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from carousel_models.errors import PackageError
from carousel_models.importing.gates import in_our_order
from carousel_models.importing.ops import Array, Direction, Op, Recur

from .activations import name_of
from .reading import Layer, Reading

OPTIONS = (
    "recurrent_activation", "reset_after", "unit_forget_bias", "dropout", "recurrent_dropout",
    "return_sequences", "return_state", "go_backwards", "stateful", "time_major", "unroll",
    "zero_output_for_mask",
)  # fmt: skip
"""Options of recurrent layers. The bias of f is stored with `unit_forget_bias` in it."""

HARD_SIGMOID_UNTIL = (2, 3)
"""Before this version, hard_sigmoid was the default of the gates."""


class Form(NamedTuple):
    """A class of recurrent layers.

    Attributes:
        gates: the order of its gates.
        cudnn: its matrices are in cuDNN's layout, and it has two biases.
    """

    gates: str
    cudnn: bool = False


FORMS = {
    "SimpleRNN": Form("n"),
    "LSTM": Form("ifco"),
    "GRU": Form("zrh"),
    "CuDNNLSTM": Form("ifco", cudnn=True),
    "CuDNNGRU": Form("zrh", cudnn=True),
}
"""Recurrent layers by their class."""


def recurrent(layer: Layer, reading: Reading) -> list[Op]:
    """A recurrent layer in one direction."""
    _check_sequences(layer, reading)
    layer.refuse(go_backwards=False)
    cell, direction = _direction(layer, reading)
    return [Recur(cell, (direction,))]


def of_a_cell(layer: Layer, reading: Reading) -> list[Op]:
    """A layer RNN with one cell, as RNN(LSTMCell(…)). It has the options of both."""
    cell = layer.inner(layer.config.get("cell"), layer.arrays)
    kind = cell.kind.removesuffix("Cell")
    if kind not in FORMS:
        raise PackageError(
            f"layer {layer.name!r} (RNN) has the cell {cell.kind}, which packages do not have; save "
            "the model with a custom module"
        )
    layer.refuse_unknown("cell", *OPTIONS)
    config = {**layer.config, **cell.config}
    del config["cell"]
    return recurrent(Layer(kind, layer.name, config, layer.arrays), reading)


def bidirectional(layer: Layer, reading: Reading) -> list[Op]:
    """A Bidirectional layer that joins both rows of each step."""
    layer.refuse(merge_mode="concat")
    half = len(layer.arrays) // 2
    forward = layer.inner(layer.config.get("layer"), layer.arrays[:half])
    given = layer.config.get("backward_layer") or layer.config.get("layer")
    backward = layer.inner(given, layer.arrays[half:])
    if not forward.config.get("return_sequences", False):
        raise PackageError(
            f"layer {layer.name!r} (Bidirectional) has return_sequences=False: it joins the last row of one "
            "direction with the first of the other, and no step has both; train it with return_sequences=True"
        )
    forward.refuse(go_backwards=False)
    cells = [_direction(one, reading) for one in (forward, backward)]
    (cell, one), (other, two) = cells
    biases = {one.bias_ih is None, two.bias_ih is None}
    if cell != other or one.weight_hh.shape != two.weight_hh.shape or len(biases) > 1:
        raise PackageError(
            f"the directions of layer {layer.name!r} have different cells or sizes; make them equal"
        )
    return [Recur(cell, (one, two))]


def _check_sequences(layer: Layer, reading: Reading) -> None:
    if not layer.config.get("return_sequences", False):
        reading.rank = 2
        reading.notes.append(
            f"{layer.name} returned its last step alone: a session gives a row at each step, and the "
            "original's output is the row of the last one"
        )
    if layer.config.get("stateful"):
        reading.notes.append(f"{layer.name} was stateful: here each session has its own state")


def _direction(layer: Layer, reading: Reading) -> tuple[str, Direction]:
    """The cell's name and its weights."""
    if layer.kind not in FORMS:
        raise PackageError(
            f"layer {layer.name!r} is a {layer.kind}, whose cell packages do not have, only "
            f"{', '.join(FORMS)}; save the model with a custom module"
        )
    layer.refuse(return_state=False, time_major=False)
    layer.refuse_unknown(*OPTIONS)
    form = FORMS[layer.kind]
    arrays = layer.taken("kernel", "recurrent kernel", "bias", optional=1)
    cell = _cell(layer, arrays)
    _check_activations(layer, reading, form)
    kernel, recurrent_kernel = arrays[:2]
    _check_shapes(layer, form, arrays)
    if form.cudnn:
        weight_ih, weight_hh = (_from_cudnn(one, len(form.gates)) for one in arrays[:2])
    else:
        weight_ih, weight_hh = kernel.T, recurrent_kernel.T
    negate = "z" if cell == "gru_reset_before" else ""
    bias_ih, bias_hh = _biases(arrays, len(weight_ih))
    values = (weight_ih, weight_hh, bias_ih, bias_hh)
    ours: list[Any] = [
        None if v is None else in_our_order(v, cell, form.gates, negate) for v in values
    ]
    return cell, Direction(*ours)


def _cell(layer: Layer, arrays: list[Array]) -> str:
    if layer.kind == "SimpleRNN":
        activation = name_of(layer.config.get("activation", "tanh"))
        if activation not in ("tanh", "relu"):
            raise PackageError(
                f"layer {layer.name!r} (SimpleRNN) has the activation {activation}, and packages have tanh "
                "and relu; train it with one of these"
            )
        return f"rnn_{activation}"
    if layer.kind in ("LSTM", "CuDNNLSTM"):
        return "lstm"
    return "gru" if layer.kind == "CuDNNGRU" or _resets_after(layer, arrays) else "gru_reset_before"


def _resets_after(layer: Layer, arrays: list[Array]) -> bool:
    """True for the GRU whose reset gate is applied after the product. Its bias has two rows."""
    two_rows = len(arrays) == 3 and arrays[2].ndim == 2
    given = layer.config.get("reset_after", two_rows if len(arrays) == 3 else None)
    if given is None:
        raise PackageError(
            f"layer {layer.name!r} (GRU) has no bias, so its arrays do not show where the reset gate is; "
            "write reset_after into its configuration"
        )
    if len(arrays) == 3 and bool(given) != two_rows:
        raise PackageError(
            f"layer {layer.name!r} (GRU) has reset_after={given}, and a bias {list(arrays[2].shape)} of the "
            "other form; give the configuration of this model"
        )
    return bool(given)


def _check_activations(layer: Layer, reading: Reading, form: Form) -> None:
    """Refuses gates other than sigmoid, and candidates other than tanh."""
    if form.cudnn or layer.kind == "SimpleRNN":
        return  # cuDNN has no other ones; SimpleRNN has no gates
    activation = name_of(layer.config.get("activation", "tanh"))
    if activation != "tanh":
        raise PackageError(
            f"layer {layer.name!r} ({layer.kind}) has activation={activation}, and the cell has tanh; train "
            "it with tanh, or save the model with a custom module"
        )
    gates = layer.config.get("recurrent_activation")
    if gates is None:
        gates = reading.recurrent_activation or _default_gates(layer, reading)
    if name_of(gates) != "sigmoid":
        raise PackageError(
            f"layer {layer.name!r} ({layer.kind}) has recurrent_activation={name_of(gates)}, and the cell "
            "has sigmoid; train it with sigmoid, or save the model with a custom module"
        )


def _default_gates(layer: Layer, reading: Reading) -> str:
    """The default activation of the gates of the Keras that wrote the file."""
    numbers = reading.version.split("-")[0].split(".")[:2]
    known = len(numbers) == 2 and all(number.isdigit() for number in numbers)
    if not known or tuple(map(int, numbers)) < HARD_SIGMOID_UNTIL:
        raise PackageError(
            f"neither file nor configuration says the activation of the gates of layer {layer.name!r}, and "
            f"Keras {reading.version or 'of an unknown version'} may have used hard_sigmoid; say which: "
            "--recurrent-activation sigmoid or hard_sigmoid"
        )
    return "sigmoid"


def _check_shapes(layer: Layer, form: Form, arrays: list[Array]) -> None:
    kernel, inner = arrays[:2]
    rows = len(form.gates) * inner.shape[0] if inner.ndim == 2 else 0
    biases: set[tuple[int, ...]] = {(2 * rows,)} if form.cudnn else {(rows,)}
    if layer.kind == "GRU":
        biases |= {(2, rows)}
    fits = kernel.ndim == 2 and kernel.shape[1] == rows and inner.shape[1] == rows
    if not fits or (len(arrays) == 3 and arrays[2].shape not in biases):
        shapes = ", ".join(str(list(one.shape)) for one in arrays)
        raise PackageError(
            f"the arrays of layer {layer.name!r} ({layer.kind}) have the shapes {shapes}, which are not "
            "those of its kernel, recurrent kernel and bias; was the file written by Keras 2 or 3?"
        )


def _from_cudnn(kernel: Array, gates: int) -> Array:
    """[gates × units, in] from [in, gates × units], whose gates hold [units, in] in memory's order."""
    blocks = np.split(kernel, gates, axis=1)
    return np.concatenate([block.reshape(block.shape[1], block.shape[0]) for block in blocks])


def _biases(arrays: list[Array], rows: int) -> tuple[Array | None, Array | None]:
    """The biases of the input's and of the state's product."""
    if len(arrays) < 3:
        return None, None
    bias = arrays[2]
    if bias.size == 2 * rows:
        first, second = bias.reshape(2, rows)
        return first, second
    return bias, np.zeros_like(bias)
