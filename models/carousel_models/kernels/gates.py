"""What lies between a step's matrix products, in Triton's language: gathering, gates, scattering.

A program computes BLOCK units of one row: the first axis of the grid counts rows, the second blocks. All
numbers are float32, but for packed operands, which have the weights' type. `slots` int64[B] says which row of
the slab's tensors belongs to row i; without them it is row i. `after` is where a row goes on: the next packed
operand's halves for x and for h, their row stride, and the next layer's h with its row stride and its width.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def pack(x, x_stride, width, slots, after, BLOCK: tl.constexpr):
    """The first operand: x [B, width], and h of the rows at the slots."""
    row, unit = _place(BLOCK)
    inside = unit < width
    value = tl.load(x + row * x_stride + unit, mask=inside)
    _hand_on(value, row, _slot(slots, row), unit, inside, after)


@triton.jit
def lstm(
    gates, bias, c, c_stride, slots, x, x_stride, units, h_new, c_new, y, after, BLOCK: tl.constexpr
):
    """From gates [B, 4 × units] in the order i, f, g, o to h, c and y [B, units]; see `cells.lstm`."""
    row, unit = _place(BLOCK)
    inside = unit < units
    slot = _slot(slots, row)
    i = _sigmoid(_sum(gates, bias, 0, 4, row, unit, units))
    f = _sigmoid(_sum(gates, bias, 1, 4, row, unit, units))
    g = _tanh(_sum(gates, bias, 2, 4, row, unit, units))
    o = _sigmoid(_sum(gates, bias, 3, 4, row, unit, units))
    state = f * tl.load(c + slot * c_stride + unit, mask=inside) + i * g
    tl.store(c_new + row * units + unit, state, mask=inside)
    _finish(o * _tanh(state), row, slot, unit, units, h_new, x, x_stride, y, after)


@triton.jit
def gru(
    gates_x, gates_h, bias_x, bias_h, h, h_stride, slots, x, x_stride, units, h_new, y, after,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """From both shares of the gates, each [B, 3 × units] in the order r, z, n; see `cells.gru`."""
    row, unit = _place(BLOCK)
    inside = unit < units
    slot = _slot(slots, row)
    r = _sigmoid(
        _sum(gates_x, bias_x, 0, 3, row, unit, units)
        + _sum(gates_h, bias_h, 0, 3, row, unit, units)
    )
    z = _sigmoid(
        _sum(gates_x, bias_x, 1, 3, row, unit, units)
        + _sum(gates_h, bias_h, 1, 3, row, unit, units)
    )
    n = _tanh(
        _sum(gates_x, bias_x, 2, 3, row, unit, units)
        + r * _sum(gates_h, bias_h, 2, 3, row, unit, units)
    )
    state = tl.load(h + slot * h_stride + unit, mask=inside)
    _finish((1 - z) * n + z * state, row, slot, unit, units, h_new, x, x_stride, y, after)


@triton.jit
def reset(gates, bias, h, h_stride, slots, units, to_h, to_stride, BLOCK: tl.constexpr):
    """From gates [B, 2 × units] in the order r, z: the operand's h becomes r∘h."""
    row, unit = _place(BLOCK)
    inside = unit < units
    r = _sigmoid(_sum(gates, bias, 0, 2, row, unit, units))
    state = tl.load(h + _slot(slots, row) * h_stride + unit, mask=inside)
    tl.store(to_h + row * to_stride + unit, (r * state).to(to_h.dtype.element_ty), mask=inside)


@triton.jit
def gru_reset_before(
    gates, candidate, bias, bias_n, h, h_stride, slots, x, x_stride, units, h_new, y, after,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """From gates [B, 2 × units] and the candidate's sums [B, units]; see `cells.gru_reset_before`."""
    row, unit = _place(BLOCK)
    inside = unit < units
    slot = _slot(slots, row)
    z = _sigmoid(_sum(gates, bias, 1, 2, row, unit, units))
    n = _tanh(_sum(candidate, bias_n, 0, 1, row, unit, units))
    state = tl.load(h + slot * h_stride + unit, mask=inside)
    _finish((1 - z) * state + z * n, row, slot, unit, units, h_new, x, x_stride, y, after)


@triton.jit
def rnn(
    gates, bias, slots, x, x_stride, units, h_new, y, after, RELU: tl.constexpr, BLOCK: tl.constexpr
):
    """From sums [B, units] to h and y; see `cells.rnn_tanh` and `cells.rnn_relu`."""
    row, unit = _place(BLOCK)
    total = _sum(gates, bias, 0, 1, row, unit, units)
    if RELU:
        h = tl.where(total < 0, 0.0, total)  # NaN stays NaN
    else:
        h = _tanh(total)
    _finish(h, row, _slot(slots, row), unit, units, h_new, x, x_stride, y, after)


@triton.jit
def scatter(targets, strides, sources, slots, widths, BLOCK: tl.constexpr):
    """Row i of each source [B, width] becomes row slots[i] of its target."""
    row, unit = _place(BLOCK)
    slot = tl.load(slots + row)
    for i in tl.static_range(len(targets)):
        inside = unit < widths[i]
        value = tl.load(sources[i] + row * widths[i] + unit, mask=inside)
        tl.store(targets[i] + slot * strides[i] + unit, value, mask=inside)


@triton.jit
def _place(BLOCK: tl.constexpr):
    """This program's row, and its units. Rows are int64: a slab may have more elements than int32 counts."""
    row = tl.program_id(0).to(tl.int64)
    return row, tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)


@triton.jit
def _slot(slots, row):
    """Where the row's state is."""
    if slots is None:
        slot = row
    else:
        slot = tl.load(slots + row)
    return slot


@triton.jit
def _sum(gates, bias, gate: tl.constexpr, count: tl.constexpr, row, unit, units):
    """One of `count` gates, with its bias."""
    inside = unit < units
    place = gate * units + unit
    product = tl.load(gates + row * (count * units) + place, mask=inside)
    return product + tl.load(bias + place, mask=inside)


@triton.jit
def _finish(h, row, slot, unit, units, h_new, x, x_stride, y, after):
    """Writes h; adds the layer's input if it is residual, and writes that; hands it on."""
    inside = unit < units
    tl.store(h_new + row * units + unit, h, mask=inside)
    if x is not None:
        h += tl.load(x + row * x_stride + unit, mask=inside)
        tl.store(y + row * units + unit, h, mask=inside)
    if after is not None:
        _hand_on(h, row, slot, unit, inside, after)


@triton.jit
def _hand_on(value, row, slot, unit, inside, after):
    """Into the next operand, rounded to its type: a layer's output, and the next layer's h."""
    to_x, to_h, stride, h, h_stride, width = after
    tl.store(to_x + row * stride + unit, value.to(to_x.dtype.element_ty), mask=inside)
    inside_h = unit < width
    state = tl.load(h + slot * h_stride + unit, mask=inside_h)
    tl.store(to_h + row * stride + unit, state.to(to_h.dtype.element_ty), mask=inside_h)


@triton.jit
def _sigmoid(x):
    return 1 / (1 + tl.exp(-x))


@triton.jit
def _tanh(x):
    """Near zero by the polynomial of Cephes' tanhf, so that small numbers keep their digits."""
    size = tl.abs(x)
    square = x * x
    p = -5.70498872745e-3 * square + 2.06390887954e-2
    p = p * square - 5.37397155531e-2
    p = p * square + 1.33314422036e-1
    p = p * square - 3.33332819422e-1
    near = p * square * x + x
    e = tl.exp(-2 * size)
    far = (1 - e) / (1 + e)
    return tl.where(size < 0.625, near, tl.where(x < 0, -far, far))
