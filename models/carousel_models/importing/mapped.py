"""Reads a model from a file of arrays and a map of their names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError
from torch import Tensor

from carousel_models.cell_facts import facts_of
from carousel_models.decoder_spec import DECODER, DecoderSpec
from carousel_models.errors import PackageError
from carousel_models.package import explain

from .array_files import opened
from .assembly import assemble
from .gates import ORDERS, in_our_order
from .imported import Imported
from .ops import (
    Activate,
    Array,
    Chain,
    Direction,
    Linear,
    Norm,
    Op,
    PRelu,
    Recur,
    Scale,
    Skip,
    ToOutput,
)
from .taken_arrays import TakenArrays
from .weights_map import (
    DecoderMap,
    DirectionMap,
    LayerMap,
    NormMap,
    RowsMap,
    StageMap,
    WeightsMap,
    read_map,
)
from .widths import check_widths


def read(path: Path, *, map: Path | str | None = None) -> Imported:  # noqa: A002 - the option's name
    """Reads the arrays of `.npz` or `.safetensors`.

    Args:
        path: the file.
        map: the map file.

    Raises:
        PackageError: the map does not fit the file. The message names the array and its place in the map.
    """
    if map is None:
        raise PackageError(
            f"{path.name} has arrays without a model; say with --map FILE.toml which array is which part"
        )
    wanted = read_map(Path(map))
    with opened(path) as file:
        taken = TakenArrays(file)
        parts, tensors = assemble(_chain(wanted, taken))
        if wanted.decoder is not None:
            parts["decoder"], its = _decoder(wanted.decoder, taken)
            tensors |= its
        taken.check_rest(wanted.ignore)
    output = wanted.output
    named: dict[str, Any] = {"labels": output.labels, "eos": output.eos}
    return Imported(parts | {name: value for name, value in named.items() if value != ()}, tensors)


def _decoder(wanted: DecoderMap, taken: TakenArrays) -> tuple[DecoderSpec, dict[str, Tensor]]:
    if wanted.embedding is None:
        raise PackageError("decoder.embedding is missing in the map; a decoder is fed tokens")
    parts, tensors = assemble(_stage(wanted, taken, f"{DECODER}."))
    fields = {name: parts[name] for name in ("input", "stack", "head")}
    try:
        spec = DecoderSpec(**fields, start=wanted.start, stop=wanted.stop, most=wanted.most)
    except ValidationError as error:
        raise PackageError(f"the map's decoder is none: {explain(error)}; correct it") from None
    return spec, {f"{DECODER}.{name}": value for name, value in tensors.items()}


def _chain(wanted: WeightsMap, taken: TakenArrays) -> Chain:
    """The first stage, with its normalization and the transform."""
    constants = None
    if wanted.normalization is not None:
        if wanted.embedding is not None:
            raise PackageError("the map has an embedding and a normalization; tokens have no mean")
        one = wanted.normalization
        constants = (taken.array(one.mean, "mean", 1), taken.array(one.std, "std", 1))
    chain = _stage(wanted, taken, "", constants)
    if wanted.output.transform == "identity":
        return chain
    return replace(chain, ops=(*chain.ops, ToOutput(wanted.output.transform)))


def _stage(
    wanted: StageMap,
    taken: TakenArrays,
    prefix: str,
    constants: tuple[Array, Array] | None = None,
) -> Chain:
    """A stage. `prefix` stands before the names of its tables, and `constants` are its mean and std."""
    embedding = taken.optional(wanted.embedding, f"{prefix}embedding", 2)
    ops: dict[str, list[Op]] = {}
    for number, part in enumerate(wanted.front):
        place = f"{prefix}front[{number}]"
        ops[place] = _rows(part, place, taken)
    for number, layer in enumerate(wanted.layer):
        place = f"{prefix}layer[{number}]"
        ops[place] = _layer(layer, place, taken)
    for number, part in enumerate(wanted.head):
        place = f"{prefix}head[{number}]"
        ops[place] = _rows(part, place, taken)
    enters = (
        embedding.shape[1] if embedding is not None else len(constants[0]) if constants else None
    )
    check_widths(ops, enters)
    return Chain(tuple(op for part in ops.values() for op in part), embedding, constants)


def _rows(part: RowsMap, place: str, taken: TakenArrays) -> list[Op]:
    """A part of front or head, and its activation."""
    ops: list[Op] = []
    vector = 2 if part.kind == "linear" else 1
    weight = taken.optional(part.weight, f"{place}.weight", vector, transpose=part.transpose)
    bias = taken.optional(part.bias, f"{place}.bias", 1)
    match part.kind:
        case "linear":
            ops.append(Linear(_present(weight, f"{place}.weight"), bias))
        case "scale":
            factor = _present(weight, f"{place}.weight")
            ops.append(Scale(factor, np.zeros_like(factor) if bias is None else bias))
        case "norm":
            ops.append(Norm(part.norm, weight, bias, part.eps))
        case "prelu":
            ops.append(PRelu(_present(weight, f"{place}.weight")))
        case "activation":
            if part.activation is None:
                raise PackageError(f"{place} has no activation; name one")
    if part.activation is not None:
        ops.append(Activate(part.activation, part.options))
    return ops


def _present(array: Array | None, place: str) -> Array:
    if array is None:
        raise PackageError(f"{place} is missing in the map; name an array")
    return array


def _layer(layer: LayerMap, place: str, taken: TakenArrays) -> list[Op]:
    directions = [_direction(layer, layer, place, taken)]
    if layer.backward is not None:
        directions.append(_direction(layer.backward, layer, f"{place}.backward", taken))
        one, two = directions
        if one.weight_hh.shape != two.weight_hh.shape or (one.bias_ih is None) != (
            two.bias_ih is None
        ):
            raise PackageError(f"the directions of {place} have different sizes; give equal ones")
    recur: Op = Recur(layer.cell, tuple(directions))
    ops: list[Op] = [Skip((recur,)) if layer.residual else recur]
    if layer.norm is not None:
        ops.append(_norm(layer.norm, f"{place}.norm", taken))
    return ops


def _norm(norm: NormMap, place: str, taken: TakenArrays) -> Norm:
    weight = taken.optional(norm.weight, f"{place}.weight", 1)
    return Norm(norm.kind, weight, taken.optional(norm.bias, f"{place}.bias", 1), norm.eps)


def _direction(given: DirectionMap, layer: LayerMap, place: str, taken: TakenArrays) -> Direction:
    gates = facts_of(layer.cell).gates
    weight_ih, weight_hh = _matrices(given, gates, place, taken)
    rows = len(weight_hh)
    weight_hr = taken.optional(given.weight_hr, f"{place}.weight_hr", 2, transpose=given.transpose)
    inner = rows // gates if weight_hr is None else len(weight_hr)
    if rows % gates or weight_hh.shape[1] != inner or len(weight_ih) != rows:
        raise PackageError(
            f"{place}: weight_ih {list(weight_ih.shape)} and weight_hh {list(weight_hh.shape)} are not "
            f"[{gates} × hidden, in] and [{gates} × hidden, hidden]; check the cell, and transpose"
        )
    bias_ih, bias_hh = _biases(given, rows, place, taken)
    order = layer.gates or ORDERS[layer.cell]

    def ours(array: Array) -> Array:
        return in_our_order(array, layer.cell, order, layer.negate)

    if bias_ih is not None and bias_hh is not None:
        bias_ih, bias_hh = ours(bias_ih), ours(bias_hh)
    if layer.forget_bias:
        bias_ih, bias_hh = _with_forget_bias(layer, bias_ih, bias_hh, rows)
    return Direction(ours(weight_ih), ours(weight_hh), bias_ih, bias_hh, weight_hr)


def _matrices(
    given: DirectionMap, gates: int, place: str, taken: TakenArrays
) -> tuple[Array, Array]:
    """The matrices of the input and of the state."""
    if given.weight is not None:
        if given.weight_ih is not None or given.weight_hh is not None:
            raise PackageError(
                f"{place} has weight, weight_ih and weight_hh; name one or two of these"
            )
        joined = taken.array(given.weight, f"{place}.weight", 2, transpose=given.transpose)
        width = joined.shape[1] - len(joined) // gates
        if width < 1:
            raise PackageError(
                f"{place}.weight is {list(joined.shape)}, which is not [{gates} × hidden, in + hidden]; "
                "transpose it, or check the cell"
            )
        return joined[:, :width], joined[:, width:]
    both = (
        taken.optional(given.weight_ih, f"{place}.weight_ih", 2, transpose=given.transpose),
        taken.optional(given.weight_hh, f"{place}.weight_hh", 2, transpose=given.transpose),
    )
    return _present(both[0], f"{place}.weight_ih"), _present(both[1], f"{place}.weight_hh")


def _biases(
    given: DirectionMap, rows: int, place: str, taken: TakenArrays
) -> tuple[Array | None, Array | None]:
    """Both biases or none. One that is missing is zero."""
    if given.bias is not None:
        if given.bias_ih is not None or given.bias_hh is not None:
            raise PackageError(f"{place} has bias, bias_ih and bias_hh; name one or two of these")
        found = taken.array(given.bias, f"{place}.bias", 1, 2).reshape(-1)
        if found.size not in (rows, 2 * rows):
            raise PackageError(
                f"{place}.bias has {found.size} numbers; give {rows}, or both biases"
            )
        first, second = found[:rows], found[rows:] if found.size > rows else np.zeros(rows)
    else:
        one = taken.optional(given.bias_ih, f"{place}.bias_ih", 1)
        two = taken.optional(given.bias_hh, f"{place}.bias_hh", 1)
        if one is None and two is None:
            return None, None
        first, second = (np.zeros(rows) if bias is None else bias for bias in (one, two))
    if first.shape != (rows,) or second.shape != (rows,):
        raise PackageError(
            f"the biases of {place} are {list(first.shape)} and {list(second.shape)}; give [{rows}] each"
        )
    return first, second


def _with_forget_bias(
    layer: LayerMap, bias_ih: Array | None, bias_hh: Array | None, rows: int
) -> tuple[Array, Array]:
    """Biases in our order, with a constant added to those of f."""
    place = ORDERS[layer.cell].find("f")
    if place < 0:
        raise PackageError(f"{layer.cell} has no forget gate; leave out forget_bias")
    size = rows // len(ORDERS[layer.cell])
    added = np.zeros(rows)
    added[place * size : (place + 1) * size] = layer.forget_bias
    return added + (0 if bias_ih is None else bias_ih), np.zeros(
        rows
    ) if bias_hh is None else bias_hh
