"""SessionService: the life of sessions."""

from __future__ import annotations

import heapq

from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.core.errors import CarouselError
from carousel_server.core.ports import (
    CatalogPort,
    Close,
    EnginePort,
    Export,
    Fork,
    Get,
    Import,
    List,
    Open,
)
from carousel_server.core.types import Durability, OpenSpec, SessionRef, SessionView

from .calls import Context, current_call
from .errors import invalid
from .fields import check_reply_bytes, check_session_id, seconds_of
from .options import WireOptions
from .paging import check_page, page_token
from .places import find_engine, find_session
from .replies import open_session, reply_of
from .views import session_message


class Sessions:
    """The methods of SessionService."""

    def __init__(self, catalog: CatalogPort, options: WireOptions) -> None:
        self._catalog = catalog
        self._options = options

    async def open_session(
        self, request: pb.OpenSessionRequest, _context: Context
    ) -> pb.OpenSessionResponse:
        """OpenSession."""
        tenant = current_call().tenant
        engine = find_engine(self._catalog, request.model)
        spec = open_spec(tenant, request, self._options.max_idle_ttl_s)
        _, view = await open_session(engine, Open(spec), keep_if_cancelled=bool(request.session_id))
        return pb.OpenSessionResponse(session=session_message(view))

    async def get_session(
        self, request: pb.GetSessionRequest, _context: Context
    ) -> pb.GetSessionResponse:
        """GetSession."""
        engine, ref = self._locate(request.session_id)
        command = Get(ref)
        engine.submit(command)
        return pb.GetSessionResponse(session=session_message(await reply_of(command.reply)))

    async def list_sessions(
        self, request: pb.ListSessionsRequest, _context: Context
    ) -> pb.ListSessionsResponse:
        """ListSessions. Each page asks every engine anew: a session is listed if it is open then."""
        size, after = check_page(request.page_size, request.page_token)
        engines = self._catalog.engines()
        if request.model:
            engines = [find_engine(self._catalog, request.model)]
        commands = [List(current_call().tenant, after, size + 1) for _ in engines]
        for engine, command in zip(engines, commands, strict=True):
            engine.submit(command)
        found: list[SessionView] = []
        for command in commands:
            views: list[SessionView] = await reply_of(command.reply)
            found += views
        page = heapq.nsmallest(size + 1, found, key=lambda view: view.id)
        last = page[size - 1].id if len(page) > size else ""
        return pb.ListSessionsResponse(
            sessions=[session_message(view) for view in page[:size]],
            next_page_token=page_token(last),
        )

    async def close_session(
        self, request: pb.CloseSessionRequest, _context: Context
    ) -> pb.CloseSessionResponse:
        """CloseSession."""
        engine, ref = self._locate(request.session_id)
        command = Close(ref)
        engine.submit(command)
        return pb.CloseSessionResponse(session=session_message(await reply_of(command.reply)))

    async def export_session(
        self, request: pb.ExportSessionRequest, _context: Context
    ) -> pb.ExportSessionResponse:
        """ExportSession."""
        engine, ref = self._locate(request.session_id)
        command = Export(ref)
        engine.submit(command)
        snapshot, view = await reply_of(command.reply)
        check_reply_bytes(len(snapshot), self._options.max_message_bytes)
        return pb.ExportSessionResponse(snapshot=snapshot, session=session_message(view))

    async def import_session(
        self, request: pb.ImportSessionRequest, _context: Context
    ) -> pb.ImportSessionResponse:
        """ImportSession. Without a model's name, the engine that knows the fingerprint takes it."""
        if not request.snapshot:
            raise invalid("snapshot", "must not be empty")
        spec = OpenSpec(
            tenant=current_call().tenant,
            session_id=new_session_id(request.session_id, "session_id"),
        )
        if request.model:
            engines = [find_engine(self._catalog, request.model)]
        else:
            engines = [engine for engine in self._catalog.engines() if engine.model.causal]
        refusal = CarouselError(
            "MODEL_NOT_FOUND", "the server has no model that runs sessions", field="model"
        )
        for engine in engines:
            command = Import(request.snapshot, spec)
            try:
                _, view = await open_session(
                    engine, command, keep_if_cancelled=bool(spec.session_id)
                )
            except CarouselError as error:
                if error.reason != "FINGERPRINT_MISMATCH":
                    raise
                refusal = error
            else:
                return pb.ImportSessionResponse(session=session_message(view))
        raise refusal

    async def fork_session(
        self, request: pb.ForkSessionRequest, _context: Context
    ) -> pb.ForkSessionResponse:
        """ForkSession."""
        engine, ref = self._locate(request.session_id)
        spec = OpenSpec(
            tenant=current_call().tenant,
            session_id=new_session_id(request.new_session_id, "new_session_id"),
            seed=request.seed if request.HasField("seed") else None,
        )
        _, view = await open_session(
            engine, Fork(ref, spec), keep_if_cancelled=bool(request.new_session_id)
        )
        return pb.ForkSessionResponse(session=session_message(view))

    def _locate(self, session_id: str) -> tuple[EnginePort, SessionRef]:
        return find_session(self._catalog, current_call().tenant, session_id)


def open_spec(tenant: str, request: pb.OpenSessionRequest, max_idle_ttl_s: float) -> OpenSpec:
    """What the caller asks for.

    Raises:
        CarouselError: FIELD_INVALID.
    """
    try:
        durability = Durability(request.durability)
    except ValueError:
        raise invalid("durability", f"{request.durability} is unknown here") from None
    idle_ttl_s = 0.0
    if request.HasField("idle_ttl"):
        idle_ttl_s = seconds_of(request.idle_ttl, "idle_ttl", max_idle_ttl_s)
    return OpenSpec(
        tenant=tenant,
        session_id=new_session_id(request.session_id, "session_id"),
        durability=durability,
        idle_ttl_s=idle_ttl_s,
        seed=request.seed if request.HasField("seed") else None,
    )


def new_session_id(given: str, field: str) -> str:
    """A client's choice, or "" to let the engine choose."""
    return check_session_id(given, field) if given else ""
