"""A model for the fake server, made of a plain function."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from carousel_protos.tensors import DATA_TYPES, Array, RowCodec
from carousel_protos.v1 import carousel_pb2 as pb

from .states import specs_of


@dataclass(frozen=True)
class FakeModel:
    """A model that a FakeServer serves.

    Attributes:
        name: unique on the server.
        step: from (input row, state) to (output row, new state). It must not change its arguments.
            The output row is an array [outputs] of float32, or a dict with the names in `fields`.
        features: width of an input row of float32. 0 means that a row is one int32 token.
        outputs: width of an output row.
        fields: output fields, instead of `outputs`: name → (NumPy type string, shape).
        initial: state of a new session: an array or a number, or a dict of them by name.
        initials: states that a client can choose at open, by name.
        vocabulary: number of tokens, if features is 0. 0 accepts every token.
        tokenizer: "bytes", or "" for a model without text.
        labels: names of the output indices.
        causal: False refuses sessions.
        window_steps: most steps that a client may have unacknowledged.
    """

    name: str
    step: Callable[[Any, Any], tuple[Any, Any]]
    features: int = 0
    outputs: int = 1
    fields: dict[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    initial: Any = 0.0
    initials: dict[str, Any] = field(default_factory=dict)
    vocabulary: int = 0
    tokenizer: str = ""
    labels: tuple[str, ...] = ()
    causal: bool = True
    window_steps: int = 128

    def message(self) -> pb.Model:
        """The protocol's Model."""
        tokens = not self.features
        fields = self.fields or {"y": ("<f4", (self.outputs,))}
        return pb.Model(
            name=self.name,
            fingerprint=hashlib.sha256(self.name.encode()).hexdigest(),
            description="a model of carousel.testing",
            cell="custom",
            input=pb.TensorSpec(
                name="x",
                dtype=pb.DATA_TYPE_INT32 if tokens else pb.DATA_TYPE_FLOAT32,
                shape=[] if tokens else [self.features],
            ),
            outputs=[
                pb.TensorSpec(name=name, dtype=DATA_TYPES[dtype], shape=shape)
                for name, (dtype, shape) in fields.items()
            ],
            causal=self.causal,
            vocabulary=self.vocabulary,
            generative=tokens and self.outputs == self.vocabulary,
            tokenizer=self.tokenizer,
            labels=self.labels,
            compute_dtype="float32",
            window_steps=self.window_steps,
            max_sequence_steps=65_536,
            states=specs_of(self.initial) if self.causal else (),
            initials=self.initials,
            resets=True,
        )

    def codecs(self) -> tuple[RowCodec, RowCodec]:
        """The codecs of input rows and of output rows."""
        return self._codecs

    @cached_property
    def _codecs(self) -> tuple[RowCodec, RowCodec]:
        message = self.message()
        return RowCodec.of([message.input]), RowCodec.of(message.outputs)

    def run(self, rows: Array, state: Any) -> tuple[bytes, Any]:
        """Steps rows [T, …] one after the other. Returns the bytes of the outputs, and the state."""
        _, codec = self._codecs
        answers = []
        for row in rows:
            y, state = self.step(row, state)
            if self.fields:
                y = np.array(tuple(y[name] for name in self.fields), codec.dtype)
            answers.append(codec.encode(y))
        return b"".join(answers), state
