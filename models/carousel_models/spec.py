"""The manifest: a model's architecture as data, without code, with limited sizes. No torch.

A model is input → recurrent stack → head → output. Widths follow from the parts. All other contradictions are
checked here, before any tensor is made.
"""

from __future__ import annotations

from math import prod
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, JsonValue, StringConstraints, model_validator

from .cell_facts import FACTS, facts_of
from .cell_facts import Cell as Cell  # noqa: PLC0414 - also a name of this module
from .custom_spec import CustomSpec as CustomSpec  # noqa: PLC0414 - also a name of this module
from .custom_spec import StateDeclaration as StateDeclaration  # noqa: PLC0414 - likewise
from .parts import MAX_SIZE, Label, Name, Part, Size
from .tokenizer import NO_TOKENIZER, TokenizerKind, form_of
from .triton_names import TritonNames as TritonNames  # noqa: PLC0414 - also a name of this module
from .triton_names import TritonTensor as TritonTensor  # noqa: PLC0414 - likewise

FORMAT: Literal[1] = 1
"""Version of the package format that this code reads and writes."""

MAX_VOCABULARY = 1 << 20
MAX_EOS = 64
MAX_LAYERS = 64
MAX_PARAMETERS = 1 << 31

Dtype = Literal["float32", "bfloat16"]
Activation = Literal["relu", "tanh", "sigmoid", "gelu", "silu"]
Transform = Literal["identity", "softmax", "sigmoid", "log_softmax"]

Fingerprint = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Token = Annotated[int, Field(ge=0, lt=MAX_VOCABULARY)]

MIN_FLOAT32, MAX_FLOAT32 = 2.0**-126, (2 - 2.0**-23) * 2.0**127
"""Smallest normal and greatest number of float32."""


class Normalization(Part):
    """Constants of x ← (x − mean) / std, one per feature, so that clients send raw values."""

    mean: Annotated[tuple[float, ...], Field(min_length=1, max_length=MAX_SIZE)]
    std: Annotated[
        tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1, max_length=MAX_SIZE)
    ]

    @model_validator(mode="after")
    def _in_float32(self) -> Self:
        for number, (mean, std) in enumerate(zip(self.mean, self.std, strict=False)):
            if abs(mean) > MAX_FLOAT32:
                raise ValueError(
                    f"mean[{number}] is {mean:g}, beyond float32; rescale that feature"
                )
            if not MIN_FLOAT32 <= std <= MAX_FLOAT32:
                raise ValueError(
                    f"std[{number}] is {std:g}, which float32 has only as 0 or infinity; a feature that is "
                    "constant gets 1, others are to be rescaled"
                )
        return self


class Projection(Part):
    """A linear layer between the input and the stack."""

    width: Size
    bias: bool = True


class RowField(NamedTuple):
    """A field of an input or output row: its name, its type, its shape for one step."""

    name: str
    dtype: Literal["float32", "int32"]
    shape: tuple[int, ...]


class TokensInput(Part):
    """Token ids 0 … vocabulary−1. Each selects a row of an embedding."""

    kind: Literal["tokens"] = "tokens"
    vocabulary: Annotated[int, Field(ge=1, le=MAX_VOCABULARY)]
    embedding: Size
    projection: Projection | None = None

    @property
    def row(self) -> RowField:
        """What a client sends for one step."""
        return RowField("x", "int32", ())

    @property
    def raw_width(self) -> int:
        """Width before the projection."""
        return self.embedding


class FeaturesInput(Part):
    """Rows of `width` float32 numbers."""

    kind: Literal["features"] = "features"
    width: Size
    normalization: Normalization | None = None
    projection: Projection | None = None

    @property
    def row(self) -> RowField:
        """What a client sends for one step."""
        return RowField("x", "float32", (self.width,))

    @property
    def raw_width(self) -> int:
        """Width before the projection."""
        return self.width

    @model_validator(mode="after")
    def _one_constant_per_feature(self) -> Self:
        if self.normalization is not None:
            found = {len(self.normalization.mean), len(self.normalization.std)}
            if found != {self.width}:
                raise ValueError(
                    f"normalization needs {self.width} means and stds, one per feature"
                )
        return self


_PROJECTING = tuple(name for name, facts in FACTS.items() if facts.projects)

Input = Annotated[TokensInput | FeaturesInput, Field(discriminator="kind")]


class LayerSpec(Part):
    """One recurrent layer: y = cell(x); `residual` adds x; then `layer_norm` normalises the row."""

    cell: Cell
    hidden: Size
    bias: bool = True
    bidirectional: bool = False
    proj_size: Annotated[int, Field(ge=0, le=MAX_SIZE)] = 0
    residual: bool = False
    layer_norm: bool = False

    @model_validator(mode="after")
    def _projection_fits_the_cell(self) -> Self:
        if self.proj_size and not facts_of(self.cell).projects:
            raise ValueError(
                f"proj_size is an option of {' and '.join(_PROJECTING)} only; use 0 for other cells"
            )
        if self.proj_size >= self.hidden:
            raise ValueError("proj_size must be smaller than hidden")
        return self

    @property
    def unseen(self) -> tuple[str, ...]:
        """Names of the states that may become infinite in a step whose outputs are finite.

        A layer after this one may turn an infinite h into finite numbers. h is unbounded after a projection
        and in a cell that is not `bounded`. A NaN is never unseen: each sum that it enters is NaN, up to the
        outputs of the same step.
        """
        return () if facts_of(self.cell).bounded and not self.proj_size else ("h",)

    @property
    def recurrent_width(self) -> int:
        """Width of h: proj_size if there is one, else hidden."""
        return self.proj_size or self.hidden

    @property
    def width(self) -> int:
        """Width of the layer's output."""
        return self.recurrent_width * (2 if self.bidirectional else 1)

    @property
    def states(self) -> tuple[tuple[str, int], ...]:
        """Name and width of each state tensor of one direction."""
        h = ("h", self.recurrent_width)
        return (h, ("c", self.hidden)) if facts_of(self.cell).memory else (h,)


class NoHead(Part):
    """The stack's output is the model's output."""

    kind: Literal["none"] = "none"


class LinearHead(Part):
    """One linear layer."""

    kind: Literal["linear"] = "linear"
    width: Size
    bias: bool = True


class MlpHead(Part):
    """Linear layers of sizes `hidden`, each followed by `activation`, then one of `width`."""

    kind: Literal["mlp"] = "mlp"
    hidden: Annotated[tuple[Size, ...], Field(min_length=1, max_length=MAX_LAYERS)]
    width: Size
    activation: Activation = "relu"
    bias: bool = True


Head = Annotated[NoHead | LinearHead | MlpHead, Field(discriminator="kind")]


class SelectFull(Part):
    """The whole row: field `y`, float32[width]."""

    kind: Literal["full"] = "full"

    def fields(self, width: int) -> tuple[RowField, ...]:
        """The fields of a row of this width."""
        return (RowField("y", "float32", (width,)),)


class SelectTopK(Part):
    """The k largest, largest first: fields `values` float32[k] and `indices` int32[k]."""

    kind: Literal["top_k"] = "top_k"
    k: Size

    def fields(self, width: int) -> tuple[RowField, ...]:  # noqa: ARG002 - as all have it
        """What a row becomes."""
        shape = (self.k,)
        return RowField("values", "float32", shape), RowField("indices", "int32", shape)


class SelectArgmax(Part):
    """The place of the largest: field `index`, int32 scalar."""

    kind: Literal["argmax"] = "argmax"

    def fields(self, width: int) -> tuple[RowField, ...]:  # noqa: ARG002 - as all have it
        """What a row becomes."""
        return (RowField("index", "int32", ()),)


Select = Annotated[SelectFull | SelectTopK | SelectArgmax, Field(discriminator="kind")]


class Output(Part):
    """The transform and the selection of the head's row."""

    transform: Transform = "identity"
    select: Select = SelectFull()


class Architecture(Part):
    """All that outputs depend on. With the tensors it gives the fingerprint."""

    input: Input
    stack: Annotated[tuple[LayerSpec, ...], Field(max_length=MAX_LAYERS)] = ()
    custom: CustomSpec | None = None
    head: Head = NoHead()
    output: Output = Output()
    dtype: Dtype = "float32"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if bool(self.stack) == (self.custom is not None):
            raise ValueError("give either `stack` (at least one layer) or `custom`, and not both")
        width = self.stack_input_width
        for number, layer in enumerate(self.stack):
            if layer.residual and layer.width != width:
                raise ValueError(
                    f"layer {number} is residual but its widths differ: {width} in, {layer.width} out"
                )
            width = layer.width
        select = self.output.select
        if isinstance(select, SelectTopK) and select.k > self.output_width:
            raise ValueError(f"top_k asks for {select.k} of {self.output_width} outputs")
        return self

    @property
    def stack_input_width(self) -> int:
        """Width of the rows that enter the stack."""
        projection = self.input.projection
        return self.input.raw_width if projection is None else projection.width

    @property
    def stack_width(self) -> int:
        """Width of the rows that leave the stack."""
        return self.stack[-1].width if self.custom is None else self.custom.width

    @property
    def output_width(self) -> int:
        """Width of the head's row, before selection."""
        return self.stack_width if isinstance(self.head, NoHead) else self.head.width

    @property
    def causal(self) -> bool:
        """True if outputs depend on the past only, so that sessions can stream."""
        return not any(layer.bidirectional for layer in self.stack)

    @property
    def vocabulary(self) -> int:
        """Number of input tokens. 0 if the input is features."""
        return self.input.vocabulary if isinstance(self.input, TokensInput) else 0

    @property
    def generative(self) -> bool:
        """True if an output row has one number per input token, so that tokens can be sampled from it."""
        return self.causal and self.vocabulary == self.output_width

    @property
    def cell(self) -> str:
        """The stack's cell, "custom", or the cells joined by "+" where layers differ."""
        return (
            "custom" if self.custom else "+".join(dict.fromkeys(layer.cell for layer in self.stack))
        )

    @property
    def hidden(self) -> int:
        """Hidden size of the widest layer. 0 for a custom module."""
        return max((layer.hidden for layer in self.stack), default=0)


class Manifest(Architecture):
    """The file `manifest.json` of a package."""

    format: Literal[1] = FORMAT
    name: Name
    fingerprint: Fingerprint
    description: Annotated[str, StringConstraints(max_length=1024)] = ""
    tokenizer: TokenizerKind = "none"
    eos: Token | Annotated[tuple[Token, ...], Field(max_length=MAX_EOS)] = ()
    labels: Annotated[tuple[Label, ...], Field(max_length=MAX_SIZE)] = ()
    training: dict[str, JsonValue] = Field(default_factory=dict)
    triton: TritonNames = TritonNames()

    @model_validator(mode="after")
    def _triton_names_fit(self) -> Self:
        fields = self.output.select.fields(self.output_width)
        if len(self.triton.outputs) not in (0, len(fields)):
            raise ValueError(f"{len(self.triton.outputs)} triton outputs for {len(fields)} fields")
        tensor = self.triton.input
        if self.vocabulary and tensor is not None and tensor.datatype == "FP32":
            raise ValueError("tokens are integers: their triton datatype is INT32 or INT64")
        for called, field in zip(self.triton.outputs, fields, strict=False):
            called.check_dims(prod(field.shape))
        if tensor is not None:
            tensor.check_dims(1 if self.vocabulary else self.input.raw_width)
        if len({output.name for output in self.triton.outputs}) != len(self.triton.outputs):
            raise ValueError("two triton outputs have the same name")
        return self

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        if self.labels and len(self.labels) != self.output_width:
            raise ValueError(f"{len(self.labels)} labels for {self.output_width} outputs")
        if self.tokenizer != NO_TOKENIZER and not self.vocabulary:
            raise ValueError("a tokenizer needs an input of kind tokens")
        if self.tokenizer != NO_TOKENIZER:
            least = form_of(self.tokenizer).least_vocabulary
            if self.vocabulary < least:
                raise ValueError(
                    f"the {self.tokenizer} tokenizer needs a vocabulary of at least {least}"
                )
        if self.eos_tokens and not self.generative:
            raise ValueError(
                "eos ends generated texts, but this model cannot feed its outputs back"
            )
        if any(token >= self.vocabulary for token in self.eos_tokens):
            raise ValueError(f"eos must be tokens from 0 to {self.vocabulary - 1}")
        return self

    @property
    def eos_tokens(self) -> tuple[int, ...]:
        """Tokens that end a text. A generation stops at one."""
        return (self.eos,) if isinstance(self.eos, int) else self.eos

    @property
    def architecture(self) -> Architecture:
        """The part that the fingerprint covers."""
        fields = {name: getattr(self, name) for name in Architecture.model_fields}
        return Architecture.model_construct(**fields)


def uniform_stack(
    cell: Cell,
    layers: int,
    hidden: int,
    *,
    bias: bool = True,
    bidirectional: bool = False,
    proj_size: int = 0,
) -> tuple[LayerSpec, ...]:
    """`layers` equal layers, as torch's modules have them."""
    layer = LayerSpec(
        cell=cell, hidden=hidden, bias=bias, bidirectional=bidirectional, proj_size=proj_size
    )
    return (layer,) * layers
