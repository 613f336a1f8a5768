"""The map file of arrays: which array is which part of the model. No torch.

A map is TOML. `[[layer]]` is a recurrent layer, `[[front]]` and `[[head]]` are parts before and after these.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from carousel_models.errors import PackageError
from carousel_models.package import explain
from carousel_models.parts import Label, Part
from carousel_models.row_parts import DEFAULT_EPS, Activation
from carousel_models.spec import Transform

MAP_BYTES = 1 << 20

MappedCell = Literal["rnn_tanh", "rnn_relu", "lstm", "gru", "gru_reset_before"]
"""Cells whose gates the import knows. `gates.ORDERS` has their orders."""


class Ref(Part):
    """One array, or several that are joined along their first dimension, as gate after gate."""

    array: str | tuple[str, ...]
    transpose: bool | None = None
    """None is as the table around it says."""


Arrays = str | tuple[str, ...] | Ref


class Transposable(Part):
    """A table with matrices. `transpose` is for those that are [in, out]."""

    transpose: bool = False


class DirectionMap(Transposable):
    """The arrays of a recurrent layer in one direction.

    Attributes:
        weight_ih: of the input, [gates × hidden, in].
        weight_hh: of the state, [gates × hidden, hidden].
        weight: both side by side, [gates × hidden, in + hidden], instead of these.
        bias_ih: added to the input's product.
        bias_hh: added to the state's product.
        bias: the only bias, or both, one after the other or as two rows, instead of these.
        weight_hr: the projection of an lstm, [proj_size, hidden].
    """

    weight_ih: Arrays | None = None
    weight_hh: Arrays | None = None
    weight: Arrays | None = None
    bias_ih: Arrays | None = None
    bias_hh: Arrays | None = None
    bias: Arrays | None = None
    weight_hr: Arrays | None = None


class NormMap(Part):
    """A norm over the row."""

    kind: Literal["layer", "rms"] = "layer"
    weight: Arrays | None = None
    bias: Arrays | None = None
    eps: float = DEFAULT_EPS


class LayerMap(DirectionMap):
    """A recurrent layer.

    Attributes:
        cell: its name in a manifest.
        gates: the file's order of the gates, a letter for each. The default is ours.
        negate: letters of gates to negate.
        forget_bias: is added to the bias of f.
        backward: arrays of the other direction.
        residual: adds the layer's input to its rows.
        norm: comes after the residual.
    """

    cell: MappedCell
    gates: str | None = None
    negate: str = ""
    forget_bias: float = 0.0
    backward: DirectionMap | None = None
    residual: bool = False
    norm: NormMap | None = None


class RowsMap(Transposable):
    """A part of front or head, then an activation."""

    kind: Literal["linear", "scale", "norm", "prelu", "activation"] = "linear"
    weight: Arrays | None = None
    bias: Arrays | None = None
    norm: Literal["layer", "rms"] = "layer"
    eps: float = DEFAULT_EPS
    activation: Activation | None = None
    options: dict[str, float] = Field(default_factory=dict)


class NormalizationMap(Part):
    """Constants of (x − mean) / std for features."""

    mean: Arrays
    std: Arrays


class OutputMap(Part):
    """The output, and fields of the manifest about it."""

    transform: Transform = "identity"
    labels: tuple[Label, ...] = ()
    eos: int | tuple[int, ...] = ()


class StageMap(Part):
    """The parts of one stage.

    Attributes:
        embedding: [vocabulary, width] for an input of tokens. Without it the input is features.
        front: parts before the recurrent layers.
        layer: the recurrent layers.
        head: parts after them.
    """

    embedding: Arrays | None = None
    front: tuple[RowsMap, ...] = ()
    layer: Annotated[tuple[LayerMap, ...], Field(min_length=1)]
    head: tuple[RowsMap, ...] = ()


class DecoderMap(StageMap):
    """A second stage, which continues the state of the first.

    Attributes:
        start: the token that it is fed first.
        stop: the token that ends a text.
        most: tokens of a text at most.
    """

    start: int
    stop: int
    most: int


class WeightsMap(StageMap):
    """A map file.

    Attributes:
        normalization: of features.
        output: the transform, labels and eos.
        decoder: a second stage.
        ignore: names of arrays of the file that the model does not use. `*` stands for any characters.
    """

    normalization: NormalizationMap | None = None
    output: OutputMap = OutputMap()
    decoder: DecoderMap | None = None
    ignore: tuple[str, ...] = ()


def read_map(path: Path) -> WeightsMap:
    """Reads and checks a map file.

    Raises:
        PackageError: it is no TOML, or has unknown or missing fields.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        text = file.read(MAP_BYTES + 1)
    if len(text) > MAP_BYTES:
        raise PackageError(f"{path} is larger than {MAP_BYTES:,} bytes; give a map in TOML")
    try:
        found = tomllib.loads(text.decode())
        # By JSON, because only there a list may be a tuple in strict mode.
        return WeightsMap.model_validate_json(json.dumps(found, default=str))
    except ValidationError as error:
        raise PackageError(f"{path} is no map of weights: {explain(error)}; correct it") from None
    except (ValueError, RecursionError) as error:
        raise PackageError(f"{path} is not TOML: {error}; correct it") from error
