"""SessionService: the life of sessions."""

from __future__ import annotations

import heapq
from concurrent.futures import Future

from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.core.catalog import CatalogPort
from carousel_server.core.errors import CarouselError
from carousel_server.core.ports import (
    Export,
    Fork,
    Import,
    List,
    Place,
    ReadState,
    ask,
)
from carousel_server.core.snapshot_header import model_of
from carousel_server.core.store import SessionKey
from carousel_server.core.types import Durability, ModelView, OpenSpec, SessionView, StateBytes

from .call import CallContext, current_call
from .errors import invalid
from .fields import check_new_session_id, check_reply_bytes, check_session_id, seconds_of
from .options import WireOptions
from .paging import check_page, page_token
from .places import ask_session, close_session, find_engine
from .replies import opening, placed, reply_of
from .states import check_initial, given_state
from .views import session_message, state_messages


class Sessions:
    """The methods of SessionService."""

    def __init__(self, catalog: CatalogPort, options: WireOptions) -> None:
        self._catalog = catalog
        self._options = options

    async def open_session(
        self, request: pb.OpenSessionRequest, _context: CallContext
    ) -> pb.OpenSessionResponse:
        """OpenSession."""
        tenant = current_call().tenant
        engine = find_engine(self._catalog, request.model)
        spec = open_spec(tenant, engine.model, request, self._options.max_idle_ttl_s)
        opened = placed(engine, self._catalog.open(engine, spec))
        _, view = await opening(opened, keep_if_cancelled=bool(request.session_id))
        return pb.OpenSessionResponse(session=session_message(view))

    async def get_session(
        self, request: pb.GetSessionRequest, _context: CallContext
    ) -> pb.GetSessionResponse:
        """GetSession."""
        tenant, session_id = current_call().tenant, check_session_id(request.session_id)
        try:
            view: SessionView = await reply_of(self._catalog.peek(tenant, session_id))
        except CarouselError as error:
            error.metadata.setdefault("session", session_id)
            raise
        return pb.GetSessionResponse(session=session_message(view))

    async def list_sessions(
        self, request: pb.ListSessionsRequest, _context: CallContext
    ) -> pb.ListSessionsResponse:
        """ListSessions. Each page asks engines and store anew: a session is listed if it is open then."""
        tenant = current_call().tenant
        size, after = check_page(request.page_size, request.page_token)
        engines = self._catalog.engines()
        if request.model:
            engines = [find_engine(self._catalog, request.model)]
        asked = [ask(engine, List(tenant, after, size + 1)) for engine in engines]
        stored = self._catalog.stored(tenant, after, size + 1, request.model)
        found: dict[str, SessionView] = {view.id: view for view in await reply_of(stored)}
        for listed in asked:
            # What an engine says of its sessions is newer.
            found |= {view.id: view for view in await reply_of(listed)}
        page = heapq.nsmallest(size + 1, found.values(), key=lambda view: view.id)
        last = page[size - 1].id if len(page) > size else ""
        return pb.ListSessionsResponse(
            sessions=[session_message(view) for view in page[:size]],
            next_page_token=page_token(last),
        )

    async def close_session(
        self, request: pb.CloseSessionRequest, _context: CallContext
    ) -> pb.CloseSessionResponse:
        """CloseSession."""
        view = await reply_of(close_session(self._catalog, self._key(request.session_id)))
        return pb.CloseSessionResponse(session=session_message(view))

    async def export_session(
        self, request: pb.ExportSessionRequest, _context: CallContext
    ) -> pb.ExportSessionResponse:
        """ExportSession."""
        key = self._key(request.session_id)
        exported = ask_session(self._catalog, key, lambda at: ask(at[0], Export(at[1])))
        snapshot, view = await reply_of(exported)
        check_reply_bytes(len(snapshot), self._options.max_message_bytes)
        return pb.ExportSessionResponse(snapshot=snapshot, session=session_message(view))

    async def get_state(
        self, request: pb.GetStateRequest, _context: CallContext
    ) -> pb.GetStateResponse:
        """GetState."""
        found: list[ModelView] = []

        def read(place: Place) -> Future[tuple[StateBytes, SessionView]]:
            found[:] = [place[0].model]
            check_reply_bytes(place[0].model.state_bytes, self._options.max_message_bytes)
            return ask(place[0], ReadState(place[1]))

        state, view = await reply_of(
            ask_session(self._catalog, self._key(request.session_id), read)
        )
        messages = state_messages(found[0], state)
        return pb.GetStateResponse(state=messages, session=session_message(view))

    async def import_session(
        self, request: pb.ImportSessionRequest, _context: CallContext
    ) -> pb.ImportSessionResponse:
        """ImportSession. Without a model's name, one with the snapshot's fingerprint takes it.

        The model that the snapshot names comes first: packages of other texts may share its weights.
        """
        if not request.snapshot:
            raise invalid("snapshot", "must not be empty")
        spec = OpenSpec(
            tenant=current_call().tenant,
            session_id=check_new_session_id(request.session_id),
        )
        if request.model:
            engines = [find_engine(self._catalog, request.model)]
        else:
            named = model_of(request.snapshot)
            engines = [engine for engine in self._catalog.engines() if engine.model.causal]
            engines.sort(key=lambda engine: engine.model.name != named)
        refusal = CarouselError(
            "MODEL_NOT_FOUND", "the server has no model that runs sessions", field="model"
        )
        for engine in engines:
            command = Import(request.snapshot, spec)
            try:
                copied = placed(engine, self._catalog.copy(engine, command))
                _, view = await opening(copied, keep_if_cancelled=bool(spec.session_id))
            except CarouselError as error:
                if error.reason != "FINGERPRINT_MISMATCH":
                    raise
                refusal = error
            else:
                return pb.ImportSessionResponse(session=session_message(view))
        raise refusal

    async def fork_session(
        self, request: pb.ForkSessionRequest, _context: CallContext
    ) -> pb.ForkSessionResponse:
        """ForkSession."""
        spec = OpenSpec(
            tenant=current_call().tenant,
            session_id=check_new_session_id(request.new_session_id, "new_session_id"),
            seed=request.seed if request.HasField("seed") else None,
        )

        def fork(place: Place) -> Future[tuple[Place, SessionView]]:
            return placed(place[0], self._catalog.copy(place[0], Fork(place[1], spec)))

        forked = ask_session(self._catalog, self._key(request.session_id), fork)
        _, view = await opening(forked, keep_if_cancelled=bool(spec.session_id))
        return pb.ForkSessionResponse(session=session_message(view))

    @staticmethod
    def _key(session_id: str) -> SessionKey:
        return SessionKey(current_call().tenant, session_id)


def open_spec(
    tenant: str, model: ModelView, request: pb.OpenSessionRequest, max_idle_ttl_s: float
) -> OpenSpec:
    """What the caller asks for.

    Raises:
        CarouselError: FIELD_INVALID, INITIAL_UNKNOWN or STATE_INVALID.
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
        session_id=check_new_session_id(request.session_id),
        durability=durability,
        idle_ttl_s=idle_ttl_s,
        seed=request.seed if request.HasField("seed") else None,
        initial=check_initial(model, request.initial),
        state=given_state(model, request.state),
    )
