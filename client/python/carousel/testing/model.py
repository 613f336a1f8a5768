"""A model made of a plain function."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from carousel_protos.tensors import DATA_TYPES, Array, RowCodec
from carousel_protos.v1 import carousel_pb2 as pb


@dataclass(frozen=True)
class FakeModel:
    """What a FakeServer serves.

    Attributes:
        name: unique on the server.
        step: from (input row, state) to (output row, new state); must not change its arguments. The
            output row is [outputs] floats, or a dict of the `fields`.
        features: width of an input row; 0 for tokens.
        outputs: width of an output row.
        fields: several output fields instead: name → (NumPy type string, shape).
        initial: state of a new session.
        vocabulary: number of tokens, if features is 0.
        tokenizer: "bytes", or "" for no text.
        labels: names of output indices.
        causal: False refuses sessions.
        window_steps: most steps un-acknowledged.
    """

    name: str
    step: Callable[[Any, Any], tuple[Any, Any]]
    features: int = 0
    outputs: int = 1
    fields: dict[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    initial: Any = 0.0
    vocabulary: int = 0
    tokenizer: str = ""
    labels: tuple[str, ...] = ()
    causal: bool = True
    window_steps: int = 128

    def message(self) -> pb.Model:
        """As ListModels tells it."""
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
        )

    def codecs(self) -> tuple[RowCodec, RowCodec]:
        """Of input and output rows."""
        message = self.message()
        return RowCodec.of([message.input]), RowCodec.of(message.outputs)

    def run(self, rows: Array, state: Any) -> tuple[bytes, Any]:
        """Steps rows one after the other: their output bytes, and the state after the last."""
        _, codec = self.codecs()
        answers = []
        for row in rows:
            y, state = self.step(row, state)
            if self.fields:
                y = np.array(tuple(y[name] for name in self.fields), codec.dtype)
            answers.append(codec.encode(y))
        return b"".join(answers), state
