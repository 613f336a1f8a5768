"""The models as the door serves them, by the names and versions that Triton's clients use."""

from __future__ import annotations

import re
from collections.abc import Sequence as Several

from carousel_protos.triton import inference_pb2 as pb
from carousel_server.core.catalog import CatalogPort
from carousel_server.core.errors import CarouselError
from carousel_server.core.ports import EnginePort

from .parameters import SequenceId, session_id
from .replies import VERSION, ReplyForm
from .sequence import Sequence
from .sessions import SequenceSessions
from .tally import Tallies
from .tensors import Tensors

_MOST_FORMS = 16


class ServedModel:
    """One model: its tensors, its reply forms, its running sequences. Used on the loop only."""

    def __init__(self, catalog: CatalogPort, engine: EnginePort) -> None:
        self.engine = engine
        self.tensors = Tensors(engine.model)
        self.tallies = Tallies()
        self._sessions = SequenceSessions(catalog, engine, self.tallies, self._leave)
        self._sequences: dict[tuple[str, SequenceId], Sequence] = {}
        self._forms: dict[tuple[tuple[int, ...], bool], ReplyForm] = {}

    def running(self, tenant: str, sequence_id: SequenceId) -> Sequence | None:
        """The sequence of an id, if it runs here."""
        return self._sequences.get((tenant, sequence_id))

    def sequence(self, tenant: str, sequence_id: SequenceId) -> Sequence:
        """The sequence of an id; a new one stands on no session yet."""
        found = self._sequences.get((tenant, sequence_id))
        if found is None:
            model = self.engine.model.name
            found = Sequence(
                self._sessions, tenant, model, sequence_id, session_id(model, sequence_id)
            )
            self._sequences[tenant, sequence_id] = found
        return found

    def form(self, request: pb.ModelInferRequest, *, streamed: bool) -> ReplyForm:
        """How the reply to a request is written.

        Raises:
            CarouselError: FIELD_INVALID, for an output that the model does not have, or one twice.
        """
        places = self.tensors.chosen(request)
        form = self._forms.get((places, streamed))
        if form is None:
            form = ReplyForm(self.tensors, places, streamed=streamed)
            if len(self._forms) < _MOST_FORMS:
                self._forms[places, streamed] = form
        return form

    def _leave(self, sequence: Sequence) -> None:
        self._sequences.pop((sequence.tenant, sequence.sequence_id), None)


class ServedModels:
    """All models of the server. Used on the loop only."""

    def __init__(self, catalog: CatalogPort) -> None:
        self._catalog = catalog
        self._served: dict[str, ServedModel] = {}

    def all(self) -> Several[ServedModel]:
        """Ordered by name."""
        return [self._serve(engine) for engine in self._catalog.engines()]

    def find(self, name: str, version: str = "") -> ServedModel:
        """A model.

        Raises:
            CarouselError: MODEL_NOT_FOUND or FIELD_INVALID, in Triton's words.
        """
        served = self._served.get(name)
        if served is None:
            try:
                served = self._serve(self._catalog.engine(name))
            except CarouselError:
                raise _unknown(name, f"'{name[:64]}'") from None
        if version not in ("", VERSION, "-1"):
            if not re.fullmatch(r"-?\d{1,18}", version):
                raise CarouselError(
                    "FIELD_INVALID",
                    f"failed to get model version from specified version string "
                    f"'{version[:64]}', version should be an integral value > 0",
                    field="model_version",
                )
            raise _unknown(name, f"'{name}' version {version}")
        return served

    def _serve(self, engine: EnginePort) -> ServedModel:
        name = engine.model.name
        served = self._served.get(name)
        if served is None:
            served = self._served[name] = ServedModel(self._catalog, engine)
        return served


def _unknown(name: str, shown: str) -> CarouselError:
    text = f"Request for unknown model: {shown} is not found"  # a capital, as Triton has it
    return CarouselError(
        "MODEL_NOT_FOUND",
        text,
        metadata={"model": name[:64]},
        field="model_name",
    )
