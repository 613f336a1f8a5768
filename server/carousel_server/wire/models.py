"""ModelService: what the server serves."""

from __future__ import annotations

from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.core.ports import CatalogPort

from .calls import Context
from .paging import check_page, page_token
from .places import find_engine
from .views import model_message


class Models:
    """The methods of ModelService."""

    def __init__(self, catalog: CatalogPort) -> None:
        self._catalog = catalog

    async def list_models(
        self, request: pb.ListModelsRequest, _context: Context
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
        self, request: pb.GetModelRequest, _context: Context
    ) -> pb.GetModelResponse:
        """GetModel."""
        engine = find_engine(self._catalog, request.name, "name")
        return pb.GetModelResponse(model=model_message(engine.model))
