"""The methods of the services, which every transport calls: coroutines from message to message."""

from __future__ import annotations

from dataclasses import dataclass

from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.core.catalog import CatalogPort

from .attach import Attach
from .call import CallContext
from .gate import Gate
from .generate import Generate
from .infer import Infer
from .options import WireOptions
from .paging import check_page, page_token
from .places import find_engine
from .sessions import Sessions
from .unary import Step
from .views import model_message


class Models:
    """The methods of ModelService."""

    def __init__(self, catalog: CatalogPort) -> None:
        self._catalog = catalog

    async def list_models(
        self, request: pb.ListModelsRequest, _context: CallContext
    ) -> pb.ListModelsResponse:
        """ListModels."""
        size, after = check_page(request.page_size, request.page_token)
        found = [e.model for e in self._catalog.engines() if e.model.name > after]
        last = found[size - 1].name if len(found) > size else ""
        return pb.ListModelsResponse(
            models=[model_message(view) for view in found[:size]],
            next_page_token=page_token(last),
        )

    async def get_model(
        self, request: pb.GetModelRequest, _context: CallContext
    ) -> pb.GetModelResponse:
        """GetModel."""
        engine = find_engine(self._catalog, request.name, "name")
        return pb.GetModelResponse(model=model_message(engine.model))


@dataclass(frozen=True, slots=True)
class Methods:
    """All methods of carousel.v1."""

    models: Models
    sessions: Sessions
    step: Step
    infer: Infer
    generate: Generate
    attach: Attach

    @classmethod
    def of(cls, catalog: CatalogPort, options: WireOptions, gate: Gate) -> Methods:
        """Those of a catalog's engines."""
        return cls(
            models=Models(catalog),
            sessions=Sessions(catalog, options),
            step=Step(catalog, options, gate),
            infer=Infer(catalog, options, gate),
            generate=Generate(catalog, options, gate),
            attach=Attach(catalog, options, gate),
        )
