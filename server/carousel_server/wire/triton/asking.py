"""From a ModelInferRequest to a request of a sequence; the same for a call and for a stream."""

from __future__ import annotations

import time
from typing import NamedTuple

from carousel_protos.triton import inference_pb2 as pb
from carousel_server.core.errors import CarouselError
from carousel_server.wire.gate import Gate

from .models import ServedModel, ServedModels
from .parameters import Parameters, parameters_of
from .replies import ReplyForm
from .sequence import Answer, Request


class Asked(NamedTuple):
    """A request that has been understood."""

    served: ServedModel
    parameters: Parameters
    row: bytes
    form: ReplyForm

    def go(self, tenant: str, answer: Answer) -> None:
        """Hands the request to its sequence."""
        _, start, end, deadline_s, durability = self.parameters
        request = Request(
            self.row, answer, start=start, end=end, deadline_s=deadline_s, durability=durability
        )
        self.served.sequence(tenant, self.parameters.sequence_id).take(request)


def understood(
    models: ServedModels, gate: Gate, request: pb.ModelInferRequest, *, streamed: bool
) -> Asked:
    """Looks at every part of a request, before an engine hears of it.

    Raises:
        CarouselError: in Triton's words where Triton has some.
    """
    gate.refuse_if_draining()
    served = models.find(request.model_name, request.model_version)
    parameters = parameters_of(request)
    model = served.engine.model
    if not model.causal:
        raise CarouselError(
            "MODEL_NOT_CAUSAL", f"model '{model.name}' is bidirectional and serves no sequences"
        )
    if not parameters.sequence_id:
        raise CarouselError(
            "FIELD_INVALID",
            f"inference request to model '{model.name}' must specify a non-zero or non-empty "
            "correlation ID",
            field="parameters[sequence_id]",
        )
    form = served.form(request, streamed=streamed)
    return Asked(served, parameters, served.tensors.row_of(request), form)


class Stopwatch:
    """Times one request for ModelStatistics."""

    __slots__ = ("_began_ns", "_served")

    def __init__(self, served: ServedModel) -> None:
        self._served = served
        self._began_ns = time.perf_counter_ns()

    def succeeded(self) -> None:
        """The request has its output."""
        tally = self._served.tally
        tally.succeeded += 1
        tally.success_ns += time.perf_counter_ns() - self._began_ns

    def failed(self) -> None:
        """The request has an error."""
        tally = self._served.tally
        tally.failed += 1
        tally.failure_ns += time.perf_counter_ns() - self._began_ns
