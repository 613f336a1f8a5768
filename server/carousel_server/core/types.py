"""Value types that rooms exchange, without behaviour, grpc or torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
Float64s = npt.NDArray[np.float64]
Bytes2D = npt.NDArray[np.uint8]


class Phase(IntEnum):
    """Phases of a session's life, numbered as in carousel.proto."""

    OPENING = 1
    RESIDENT = 2
    PARKED = 3
    DRAINING = 4
    CLOSED = 5


class Durability(IntEnum):
    """What survives the death of the server, numbered as in carousel.proto."""

    UNSPECIFIED = 0
    NONE = 1
    ASYNC = 2
    SYNC = 3
    SYNC_FSYNC = 4


class SessionKey(NamedTuple):
    """A session's name, unique in a store."""

    tenant: str
    id: str


class SessionRef(NamedTuple):
    """A session inside one engine: its row, and the row's generation.

    The generation is different for each session that uses the same row.
    """

    row: int
    generation: int


@dataclass(frozen=True, slots=True)
class TensorField:
    """One field of a row on the wire. `dtype` is a NumPy type string."""

    name: str
    dtype: Literal["<f4", "<i4", "<i2"]
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """Bytes of this field in one row."""
        return math.prod(self.shape) * int(self.dtype[-1])


class Signal(NamedTuple):
    """The samples of a model whose input is frames. It mirrors `carousel.v1.Signal`."""

    hop: int
    rate: int
    output: bool
    delay: int


class DecoderView(NamedTuple):
    """A model's second stage, with tokens of its own. It mirrors `carousel.v1.Decoder`."""

    vocabulary: int
    start: int
    stop: int
    most: int


class StateField(NamedTuple):
    """One state tensor of a session. `dtype` is its name in a manifest, such as "float32".

    `finite` is True where NaN and infinities are errors.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    finite: bool = True


StateBytes = tuple[tuple[str, bytes], ...]
"""States by name, little-endian and row-major, with the types and shapes of the model's."""


class TritonTensor(NamedTuple):
    """The name and datatype of a row's field in Triton's protocol, such as "FP32".

    `dims` are its dimensions there, without the batch's. Empty means those of the field.
    """

    name: str
    datatype: str
    dims: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelView:
    """A model as clients see it. It mirrors `carousel.v1.Model`.

    Attributes:
        input_row_bytes: bytes of one input row.
        output_row_bytes: bytes of one output row, with its fields one after the other.
        states: of one session. Empty if the model is not causal.
        initials: names of the initial states that a client can choose.
        vocabulary: number of tokens of a prompt, 0 for features.
        decoder: the second stage. None if the model feeds its own tokens.
        input_tokens: number of tokens that a step takes: those of all stages.
        drawn_tokens: number of tokens that can be drawn.
        first_drawn: the input token that the drawn token 0 is fed as.
    """

    name: str
    fingerprint: str
    description: str
    cell: str
    layers: int
    hidden: int
    input: TensorField
    outputs: tuple[TensorField, ...]
    causal: bool
    vocabulary: int
    generative: bool
    tokenizer: str
    labels: tuple[str, ...]
    parameters: int
    state_bytes: int
    compute_dtype: str
    window_steps: int
    max_sequence_steps: int
    execution_class: str = ""
    signal: Signal | None = None
    triton_input: TritonTensor | None = None
    triton_outputs: tuple[TritonTensor, ...] = ()
    states: tuple[StateField, ...] = ()
    initials: tuple[str, ...] = ()
    decoder: DecoderView | None = None
    input_row_bytes: int = field(init=False)
    output_row_bytes: int = field(init=False)
    input_tokens: int = field(init=False)
    drawn_tokens: int = field(init=False)
    first_drawn: int = field(init=False)

    def __post_init__(self) -> None:
        """Works out what each step needs."""
        object.__setattr__(self, "input_row_bytes", self.input.row_bytes)
        output_row_bytes = sum(output.row_bytes for output in self.outputs)
        object.__setattr__(self, "output_row_bytes", output_row_bytes)
        decoder = self.decoder
        drawn = self.vocabulary if decoder is None else decoder.vocabulary
        object.__setattr__(self, "drawn_tokens", drawn)
        object.__setattr__(self, "first_drawn", 0 if decoder is None else self.vocabulary)
        object.__setattr__(self, "input_tokens", self.first_drawn + drawn)

    def initial_index(self, name: str) -> int:
        """The place of an initial state among the slab's; 0 is the default, with the name ""."""
        return ("", *self.initials).index(name)


@dataclass(frozen=True, slots=True)
class OpenSpec:
    """The options of a new session. `idle_ttl_s` 0 and `seed` None mean the default.

    `initial` is the name of an initial state of the model. `state` has the states that begin otherwise. Both
    have been checked. `take_over`: if an earlier try has opened it at another replica, that replica releases
    it even if a stream has it.
    """

    tenant: str
    session_id: str
    durability: Durability = Durability.UNSPECIFIED
    idle_ttl_s: float = 0.0
    seed: int | None = None
    initial: str = ""
    state: StateBytes = ()
    take_over: bool = False


@dataclass(frozen=True, slots=True)
class SessionView:
    """A session at one instant. It mirrors `carousel.v1.Session`. Times are Unix seconds.

    `whole` is not part of it: False if steps that another holder has answered may be missing.
    """

    id: str
    model: str
    phase: Phase
    applied: int
    ack: int
    durable: int
    epoch: int
    durability: Durability
    idle_ttl_s: float
    created_at_unix_s: float
    fingerprint: str
    window_steps: int
    seed: int
    execution_class: str = ""
    initial: str = ""
    holder: str = ""
    whole: bool = True


@dataclass(frozen=True, slots=True)
class SamplingSpec:
    """How a token is sampled. `carousel.v1.Sampling` has the order of the operations."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class GenerateSpec:
    """A generation. `prompt` is text, token ids (int32), or None to continue from the last token.

    The first `opening_tokens` ids of the prompt, such as a BOS, are used only where a session begins.
    `logprobs` None reports none, 0 only the sampled token's, k also the k best alternatives.
    `deadline_s` is an instant of the engine's monotonic clock. With `reset`, the first step starts from the
    session's initial state.
    """

    prompt: str | Int32s | None
    max_tokens: int
    sampling: SamplingSpec = SamplingSpec()
    stop: tuple[str, ...] = ()
    stop_tokens: tuple[int, ...] = ()
    logprobs: int | None = None
    first_seq: int = 0
    deadline_s: float = float("inf")
    opening_tokens: int = 0
    reset: bool = False


class FinishReason(IntEnum):
    """Why a generation ended, numbered as in carousel.proto."""

    LENGTH = 1
    STOP = 2


@dataclass(frozen=True, slots=True)
class GeneratedToken:
    """One token of a generation. `alternatives` are (id, log-probability), best first."""

    id: int
    text: str
    seq: int
    logprob: float | None = None
    alternatives: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class GenerationEnd:
    """The end of a generation without an error."""

    reason: FinishReason
    prompt_tokens: int
    generated_tokens: int
    applied: int
    text: str = ""
    """The remaining text of the detokenizer at the end of the generation."""
