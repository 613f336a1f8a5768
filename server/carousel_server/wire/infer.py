"""Infer: a whole sequence, without a session."""

from __future__ import annotations

import asyncio

import numpy as np

from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.core.catalog import CatalogPort
from carousel_server.core.errors import CarouselError
from carousel_server.core.ports import EnginePort, ask
from carousel_server.core.ports import Infer as InferCommand
from carousel_server.core.types import ModelView

from .call import CallContext, current_call
from .errors import invalid
from .fields import check_dtype, check_reply_bytes, count_rows, deadline_after
from .gate import Gate
from .options import WireOptions
from .places import find_engine
from .states import check_initial


class Infer:
    """The method Infer."""

    def __init__(self, catalog: CatalogPort, options: WireOptions, gate: Gate) -> None:
        self._catalog = catalog
        self._options = options
        self._gate = gate

    async def infer(self, request: pb.InferRequest, context: CallContext) -> pb.InferResponse:
        """Infer. When the caller gives up, the sequence is withdrawn, at the next piece if it runs."""
        self._gate.refuse_if_draining()
        engine = find_engine(self._catalog, request.model)
        inputs = await self._inputs(engine, request)
        steps = len(inputs) // engine.model.input_row_bytes
        check_steps(engine.model, steps)
        reply_bytes = steps * engine.model.output_row_bytes
        check_reply_bytes(reply_bytes, self._options.max_message_bytes)
        deadline_s = deadline_after(context.time_remaining())
        initial = check_initial(engine.model, request.initial)
        command = InferCommand(inputs, deadline_s, current_call().tenant, initial)
        rows = await asyncio.wrap_future(ask(engine, command))  # cancelling it withdraws it
        return pb.InferResponse(outputs=rows.tobytes(), steps=len(rows))

    async def _inputs(self, engine: EnginePort, request: pb.InferRequest) -> bytes:
        match request.WhichOneof("input"):
            case "inputs":
                check_dtype(engine.model, request.dtype)
                count_rows(engine.model, request.inputs)
                return request.inputs
            case "text":
                return await encode_text(engine, request.text)
        raise invalid("input", "set inputs or text")


async def encode_text(engine: EnginePort, text: str) -> bytes:
    """The rows of a text's tokens.

    Raises:
        CarouselError: TEXT_UNAVAILABLE or SEQUENCE_TOO_LONG.
    """
    check_text(engine.model, text)
    ids = await engine.encode_text(text)
    return ids.astype(np.dtype("<i4")).tobytes()


def check_text(model: ModelView, text: str) -> None:
    """Refuses a text that has too many tokens, as far as that can be told without making them.

    Raises:
        CarouselError: SEQUENCE_TOO_LONG.
    """
    if model.tokenizer == "bytes":  # a character is a token or more
        check_steps(model, max(1, len(text)))


def check_steps(model: ModelView, steps: int) -> None:
    """The length of a whole sequence.

    Raises:
        CarouselError: SEQUENCE_TOO_LONG if it is empty or too long.
    """
    if not 0 < steps <= model.max_sequence_steps:
        raise CarouselError(
            "SEQUENCE_TOO_LONG",
            f"the sequence has {steps} steps; 1 to {model.max_sequence_steps} are taken",
            metadata={"limit": model.max_sequence_steps, "steps": steps},
            field="input",
        )
