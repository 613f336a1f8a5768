"""What the door says of the server and its models: metadata, configuration, statistics, readiness."""

from __future__ import annotations

from carousel_protos.triton import inference_pb2 as pb
from carousel_server.core.catalog import CatalogPort
from carousel_server.core.errors import CarouselError
from carousel_server.wire.call import CallContext, current_call
from carousel_server.wire.gate import Gate
from carousel_server.wire.options import WireOptions

from .models import ServedModel, ServedModels
from .replies import VERSION

PLATFORM = "carousel"
EXTENSIONS = ("sequence", "model_configuration", "binary_tensor_data", "parameters", "statistics")

_DATA_TYPES = {
    "FP32": pb.TYPE_FP32,
    "INT16": pb.TYPE_INT16,
    "INT32": pb.TYPE_INT32,
    "INT64": pb.TYPE_INT64,
}


class About:
    """One short method a question."""

    def __init__(
        self, catalog: CatalogPort, models: ServedModels, options: WireOptions, gate: Gate
    ) -> None:
        self._catalog = catalog
        self._models = models
        self._options = options
        self._gate = gate

    async def server_live(
        self, _request: pb.ServerLiveRequest, _context: CallContext
    ) -> pb.ServerLiveResponse:
        """Whoever answers is alive."""
        return pb.ServerLiveResponse(live=True)

    async def server_ready(
        self, _request: pb.ServerReadyRequest, _context: CallContext
    ) -> pb.ServerReadyResponse:
        """False once the server drains, or while a model is unhealthy."""
        healthy = all(engine.healthy for engine in self._catalog.engines())
        return pb.ServerReadyResponse(ready=healthy and not self._gate.draining)

    async def model_ready(
        self, request: pb.ModelReadyRequest, _context: CallContext
    ) -> pb.ModelReadyResponse:
        """False for a model that is not there, too."""
        try:
            served = self._models.find(request.name, request.version)
        except CarouselError as error:
            if error.reason != "MODEL_NOT_FOUND":
                raise
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=self._is_ready(served))

    async def server_metadata(
        self, _request: pb.ServerMetadataRequest, _context: CallContext
    ) -> pb.ServerMetadataResponse:
        """Name, version, and which extensions of the protocol are spoken."""
        version = self._options.server_version
        return pb.ServerMetadataResponse(name=PLATFORM, version=version, extensions=EXTENSIONS)

    async def model_metadata(
        self, request: pb.ModelMetadataRequest, _context: CallContext
    ) -> pb.ModelMetadataResponse:
        """The tensors of a model; the first dimension of each is the batch's."""
        served = self._models.find(request.name, request.version)
        tensors = served.tensors
        return pb.ModelMetadataResponse(
            name=request.name,
            versions=[VERSION],
            platform=PLATFORM,
            inputs=[
                pb.ModelMetadataResponse.TensorMetadata(
                    name=tensor.name, datatype=tensor.datatype, shape=[-1, *tensor.dims]
                )
                for tensor in (tensors.input,)
            ],
            outputs=[
                pb.ModelMetadataResponse.TensorMetadata(
                    name=tensor.name, datatype=tensor.datatype, shape=[-1, *tensor.dims]
                )
                for tensor in tensors.outputs
            ],
        )

    async def model_config(
        self, request: pb.ModelConfigRequest, _context: CallContext
    ) -> pb.ModelConfigResponse:
        """A model's configuration as Triton would have it. Clients see by it that it takes sequences."""
        served = self._models.find(request.name, request.version)
        tensors = served.tensors
        config = pb.ModelConfig(
            name=request.name,
            platform=PLATFORM,
            backend=PLATFORM,
            max_batch_size=1,
            model_transaction_policy=pb.ModelTransactionPolicy(decoupled=False),
        )
        given = tensors.input
        config.input.add(name=given.name, data_type=_DATA_TYPES[given.datatype], dims=given.dims)
        for tensor in tensors.outputs:
            config.output.add(
                name=tensor.name, data_type=_DATA_TYPES[tensor.datatype], dims=tensor.dims
            )
        if served.engine.model.causal:
            batching = config.sequence_batching
            batching.max_sequence_idle_microseconds = round(self._options.default_idle_ttl_s * 1e6)
            batching.oldest.max_candidate_sequences = self._options.slots
        return pb.ModelConfigResponse(config=config)

    async def model_statistics(
        self, request: pb.ModelStatisticsRequest, _context: CallContext
    ) -> pb.ModelStatisticsResponse:
        """Counts and times of one model, or of all of them: the caller's own."""
        name = request.name
        chosen = [self._models.find(name, request.version)] if name else self._models.all()
        tenant = current_call().tenant
        stats = [s.tallies.of(tenant).statistics(s.engine.model.name) for s in chosen]
        return pb.ModelStatisticsResponse(model_stats=stats)

    async def repository_index(
        self, request: pb.RepositoryIndexRequest, _context: CallContext
    ) -> pb.RepositoryIndexResponse:
        """All models; with `ready` set only those that are."""
        index = pb.RepositoryIndexResponse()
        for served in self._models.all():
            ready = self._is_ready(served)
            if ready or not request.ready:
                state = "READY" if ready else "UNAVAILABLE"
                index.models.add(name=served.engine.model.name, version=VERSION, state=state)
        return index

    def _is_ready(self, served: ServedModel) -> bool:
        return served.engine.healthy and not self._gate.draining
