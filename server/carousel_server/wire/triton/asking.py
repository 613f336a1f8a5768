"""From a ModelInferRequest to a request of a sequence; the same for a call and for a stream."""

from __future__ import annotations

from typing import NamedTuple

from carousel_protos.triton import inference_pb2 as pb
from carousel_server.core.errors import CarouselError
from carousel_server.wire.gate import Gate
from carousel_server.wire.states import check_initial

from .models import ServedModel, ServedModels
from .parameters import Parameters, SequenceId, parameters_of
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
        _, start, end, deadline_s, beginning = self.parameters
        request = Request(
            self.row, answer, start=start, end=end, deadline_s=deadline_s, beginning=beginning
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
            "MODEL_NOT_CAUSAL", f"model '{model.name}' is not causal and serves no sequences"
        )
    if not parameters.sequence_id:
        raise CarouselError(
            "FIELD_INVALID",
            f"inference request to model '{model.name}' must specify a non-zero or non-empty "
            "correlation ID",
            field="parameters[sequence_id]",
        )
    check_initial(model, parameters.beginning.initial, "parameters[initial]")
    form = served.form(request, streamed=streamed)
    return Asked(served, parameters, served.tensors.row_of(request), form)


def facts_of(sequence_id: SequenceId | None, step: int) -> tuple[str, ...]:
    """Which sequence and which step of it an error is about, as far as that is known."""
    sequence = () if sequence_id is None else (f"sequence {sequence_id}",)
    return (*sequence, f"step {step}") if step else sequence
