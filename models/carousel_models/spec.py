"""The manifest: a model's architecture as data, without code, with limited sizes. No torch.

A model is input → recurrent stack → head → output. Widths follow from the parts. All other contradictions are
checked here, before any tensor is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, JsonValue, StringConstraints, model_validator

from .cell_facts import Cell as Cell  # noqa: PLC0414 - also a name of this module
from .chain_parts import LayersPart
from .custom_spec import CustomSpec as CustomSpec  # noqa: PLC0414 - also a name of this module
from .decoder_spec import DecoderSpec as DecoderSpec  # noqa: PLC0414 - likewise
from .decoder_spec import Token
from .heads import ChainHead as ChainHead  # noqa: PLC0414 - likewise
from .heads import Head as Head  # noqa: PLC0414 - likewise
from .heads import LinearHead as LinearHead  # noqa: PLC0414 - likewise
from .heads import MlpHead as MlpHead  # noqa: PLC0414 - likewise
from .heads import NoHead as NoHead  # noqa: PLC0414 - likewise
from .inputs import MAX_VOCABULARY
from .inputs import FeaturesInput as FeaturesInput  # noqa: PLC0414 - likewise
from .inputs import FramesInput as FramesInput  # noqa: PLC0414 - likewise
from .inputs import Input as Input  # noqa: PLC0414 - likewise
from .inputs import Normalization as Normalization  # noqa: PLC0414 - likewise
from .inputs import Projection as Projection  # noqa: PLC0414 - likewise
from .inputs import TokensInput as TokensInput  # noqa: PLC0414 - likewise
from .layer_spec import MAX_LAYERS, leaves_layers, states_of_layers
from .layer_spec import LayerSpec as LayerSpec  # noqa: PLC0414 - likewise
from .layer_spec import uniform_stack as uniform_stack  # noqa: PLC0414 - likewise
from .outputs import Output as Output  # noqa: PLC0414 - likewise
from .outputs import OverlapAdd as OverlapAdd  # noqa: PLC0414 - likewise
from .outputs import Select as Select  # noqa: PLC0414 - likewise
from .outputs import SelectArgmax as SelectArgmax  # noqa: PLC0414 - likewise
from .outputs import SelectFull as SelectFull  # noqa: PLC0414 - likewise
from .outputs import SelectTopK as SelectTopK  # noqa: PLC0414 - likewise
from .outputs import Transform as Transform  # noqa: PLC0414 - likewise
from .parts import MAX_SIZE, Label, Name, Part
from .row_parts import Activation as Activation  # noqa: PLC0414 - likewise
from .row_parts import leaves
from .stack_kinds import AnyStackPart
from .stack_parts import MAX_PARTS, Placed, part_states, place
from .states import MAX_INITIAL_STATES, InitialState, check_initial
from .states import StateDeclaration as StateDeclaration  # noqa: PLC0414 - likewise
from .tokenizer import NO_TOKENIZER, TokenizerKind, form_of
from .triton_names import TritonNames as TritonNames  # noqa: PLC0414 - also a name of this module
from .triton_names import TritonTensor as TritonTensor  # noqa: PLC0414 - likewise

FORMAT: Literal[1] = 1
"""Version of the package format that this code reads and writes."""

MAX_EOS = 64
MAX_PARAMETERS = 1 << 31

CONTEXT, OVERLAP = "input.context", "output.overlap"
"""Names of the states outside of the stack."""

Dtype = Literal["float32", "bfloat16"]

Fingerprint = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


def states_of(
    stack: Sequence[LayerSpec], custom: CustomSpec | None
) -> tuple[StateDeclaration, ...]:
    """The states of one session: those of each layer, or as declared. Empty if a layer is bidirectional."""
    if custom is not None:
        return custom.states
    return states_of_layers(stack)


class Architecture(Part):
    """All that outputs depend on. With the tensors it gives the fingerprint.

    What stands between input and head is one of three: `stack` has built-in layers, `custom` is a module of
    the user's, and `parts` are parts of any kinds, which read the rows of earlier ones.

    With a `decoder` the model has two stages, and these fields are the encoder. For vocabularies of A and B
    tokens, an input is then a number 0 … A+B−1: below A the encoder's token, from A on the decoder's.
    """

    later: ClassVar[tuple[str, ...]] = ("parts", "initial", "decoder")

    input: Input
    stack: Annotated[tuple[LayerSpec, ...], Field(max_length=MAX_LAYERS)] = ()
    custom: CustomSpec | None = None
    parts: Annotated[tuple[AnyStackPart, ...], Field(max_length=MAX_PARTS)] = ()
    head: Head = NoHead()
    output: Output = Output()
    dtype: Dtype = "float32"
    initial: Annotated[tuple[InitialState, ...], Field(max_length=MAX_INITIAL_STATES)] = ()
    decoder: DecoderSpec | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if bool(self.stack) + (self.custom is not None) + bool(self.parts) != 1:
            raise ValueError(
                "give either `stack` (at least one layer), `custom` or `parts`, and only one"
            )
        leaves_layers(self.stack, self.stack_input_width)
        self._check_signals()
        self._check_stages()
        select = self.output.select
        if isinstance(select, SelectTopK) and select.k > self.output_width:
            raise ValueError(f"top_k asks for {select.k} of {self.output_width} outputs")
        check_initial(self.initial, self.states)
        return self

    def _check_signals(self) -> None:
        frame, signal = self.frame_width, self.output.overlap_add
        if signal is not None and signal.hop >= frame:
            raise ValueError(
                f"overlap_add gives {signal.hop} samples a step, but a frame has only {frame}; choose a "
                "smaller hop, or leave overlap_add out"
            )
        if self.signal_states and not self.causal:
            raise ValueError("a model that is not causal has no state for a context or an overlap")

    def _check_stages(self) -> None:
        decoder = self.decoding
        if self.decoder is None or decoder is None:
            return
        if not self.vocabulary or not self.stack or not isinstance(self.head, NoHead):
            raise ValueError(
                "a decoder continues the state of an encoder with an input of tokens, built-in layers and no "
                "head; leave out the decoder, or give such an encoder"
            )
        if self.input_tokens > MAX_VOCABULARY:
            raise ValueError(f"encoder and decoder have more than {MAX_VOCABULARY} tokens together")
        if self.output.overlap_add is not None:
            raise ValueError(
                "the rows of a decoder are logits, and no signal; leave out overlap_add"
            )
        if decoder.output_width != decoder.vocabulary:
            raise ValueError(
                f"the decoder has {decoder.vocabulary} tokens, but its rows are {decoder.output_width} wide; "
                "give a head with one number per token"
            )
        mine, its = (
            [f"{s.name} {s.dtype}{list(s.shape)}" for s in one.states] for one in (self, decoder)
        )
        if not (self.causal and decoder.causal) or mine != its:
            raise ValueError(
                f"the encoder's states are {', '.join(mine) or 'none'}, and the decoder's, which continues "
                f"them, {', '.join(its) or 'none'}; give both the same cells, layers and sizes, forward only"
            )

    @property
    def decoding(self) -> Architecture | None:
        """The decoder as a model of its own. None without one."""
        one = self.decoder
        if one is None:
            return None
        return Architecture(input=one.input, stack=one.stack, head=one.head, dtype=self.dtype)

    @property
    def states(self) -> tuple[StateDeclaration, ...]:
        """The states of one session. Empty if the model is not causal."""
        if self.parts:
            own = part_states(self.parts, self.stack_input_width)
        else:
            own = states_of(self.stack, self.custom)
        return (*own, *self.signal_states)

    @property
    def signal_states(self) -> tuple[StateDeclaration, ...]:
        """The states outside of the stack: earlier samples of a frame, and what overlaps with the next."""
        context = self.input.context if isinstance(self.input, FramesInput) else 0
        signal = self.output.overlap_add
        overlap = 0 if signal is None else self.frame_width - signal.hop
        widths = {CONTEXT: context, OVERLAP: overlap}
        return tuple(StateDeclaration(name=n, shape=(w,)) for n, w in widths.items() if w > 0)

    @property
    def frame_width(self) -> int:
        """Width of the head's row, before an overlap is added."""
        return leaves(self.head.parts, self.stack_width)

    @property
    def initial_names(self) -> tuple[str, ...]:
        """The names of the initial states that a client may choose, in the order of the manifest."""
        return tuple(one.name for one in self.initial if one.name)

    @property
    def stack_input_width(self) -> int:
        """Width of the rows that enter the stack."""
        return leaves(self.input.parts, self.input.raw_width)

    @property
    def stack_width(self) -> int:
        """Width of the rows that leave the stack."""
        if self.custom is not None:
            return self.custom.width
        return self.placed[-1].leaving if self.parts else self.stack[-1].width

    @property
    def placed(self) -> tuple[Placed, ...]:
        """The parts with their sources and widths."""
        return place(self.parts, self.stack_input_width)

    @property
    def output_width(self) -> int:
        """Width of the output's row, before selection. With stages it is that of the decoder's rows."""
        if self.decoder is not None:
            return self.decoder.input.vocabulary
        signal = self.output.overlap_add
        return self.frame_width if signal is None else signal.hop

    @property
    def causal(self) -> bool:
        """True if outputs depend on the past only, so that sessions can stream."""
        return all(layer.causal for layer in self.stack)

    @property
    def vocabulary(self) -> int:
        """Number of input tokens, with stages those of the encoder. 0 if the input is features."""
        return self.input.vocabulary if isinstance(self.input, TokensInput) else 0

    @property
    def input_tokens(self) -> int:
        """Number of tokens that a step takes: those of all stages. 0 if the input is features."""
        return self.vocabulary + (0 if self.decoder is None else self.decoder.input.vocabulary)

    @property
    def generative(self) -> bool:
        """True if an output row has one number per token that can be fed, so that tokens can be sampled."""
        return self.decoder is not None or (self.causal and self.vocabulary == self.output_width)

    @property
    def cell(self) -> str:
        """The stack's cell, "custom", or the cells and the kinds of parts joined by "+" where they differ."""
        layers = (*self.stack, *(self.decoder.stack if self.decoder else ()))
        names: list[str] = [layer.cell for layer in layers]
        names += [cell for part in self.parts for cell in part.cells]
        return "custom" if self.custom else "+".join(dict.fromkeys(names))

    @property
    def foreign(self) -> str:
        """Names the code that is not Carousel's, such as "custom module 'a:B'". "" if there is none."""
        custom = [f"custom module {self.custom.module!r}"] if self.custom else []
        return " and ".join(filter(None, (*custom, *(part.foreign for part in self.parts))))

    @property
    def hidden(self) -> int:
        """Hidden size of the widest layer. 0 without built-in layers."""
        inner = [
            layer for part in self.parts if isinstance(part, LayersPart) for layer in part.layers
        ]
        return max((layer.hidden for layer in (*self.stack, *inner)), default=0)


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
        if self.decoder is not None and (self.tokenizer != NO_TOKENIZER or self.eos != ()):
            raise ValueError(
                "a tokenizer and eos are for a model without a decoder; leave them out, as a decoder has "
                "`stop`, and `labels` name its tokens"
            )
        if self.eos_tokens and not self.generative:
            raise ValueError(
                "eos ends generated texts, but this model cannot feed its outputs back"
            )
        if any(token >= self.output_width for token in self.eos_tokens):
            raise ValueError(f"eos must be tokens from 0 to {self.output_width - 1}")
        return self

    @property
    def eos_tokens(self) -> tuple[int, ...]:
        """Tokens that end a text. A generation stops at one."""
        if self.decoder is not None:
            return (self.decoder.stop,)
        return (self.eos,) if isinstance(self.eos, int) else self.eos

    @property
    def architecture(self) -> Architecture:
        """The part that the fingerprint covers."""
        fields = {name: getattr(self, name) for name in Architecture.model_fields}
        return Architecture.model_construct(**fields)
