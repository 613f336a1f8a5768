"""One Attach stream: its handles, and what its client is told of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.core.catalog import CatalogPort
from carousel_server.core.errors import STORE_WAITS, CarouselError
from carousel_server.core.metering import WireMetrics
from carousel_server.core.moves import Hold
from carousel_server.core.types import Bytes2D, SessionView

from .errors import count_refusal, status_of
from .outbox import Outbox
from .seat import Claim
from .seats import Seats
from .turns import Submissions
from .views import duration_of, session_message

_ROW_OVERHEAD_BYTES = 16
"""Most bytes that a handle (5) and a seq (10) take in a message, rounded up."""

_Outputs = tuple[list[int], list[int], int, Bytes2D]
"""Handles, their first seqs, how many steps of each, and the outputs of these."""


class Stream:
    """The door of one client: a `Door` whose seats are handles. On the loop only.

    Attributes:
        outbox: what the client is to be told.
        tenant: whose sessions it may have.
        seats: its sessions.
        seat_of: the seat of each handle in use.
    """

    def __init__(
        self,
        submissions: Submissions,
        outbox: Outbox,
        metrics: WireMetrics,
        catalog: CatalogPort,
        tenant: str,
    ) -> None:
        self.outbox = outbox
        self._metrics = metrics
        self.tenant = tenant
        self.seats: Seats[int] = Seats(submissions, catalog, self)
        self.seats.hold = Hold.STREAM
        self.seat_of: dict[int, int] = {}
        # The server hands its sessions over and then stops; the stream ends with its last one.
        self._hands_over = False

    @property
    def follows(self) -> bool:
        """True if the client follows its sessions to other servers."""
        return self.seats.hold is Hold.FOLLOWER

    def follow_moves(self) -> None:
        """The client has said in its Hello that it does."""
        self.seats.hold = Hold.FOLLOWER

    def bind(self, handle: int, claim: Claim) -> None:
        """Finds a session and binds it to a free handle."""
        seat = self.seat_of[handle] = self.seats.take(handle, claim)
        self.seats.find(seat)

    def held(self, handle: int) -> int | None:
        """The seat of a handle whose session takes steps."""
        seat = self.seat_of.get(handle)
        return seat if seat is not None and self.seats.takes_steps(seat) else None

    # -- Door

    def outputs(self, owners: list[int], first_seqs: list[int], steps: int, rows: Bytes2D) -> None:
        """See `Door.outputs`. They go in as many messages as they need."""
        parts = [(owners, first_seqs, steps, rows)]
        if len(owners) * (rows.shape[1] + _ROW_OVERHEAD_BYTES) > self.outbox.max_message_bytes:
            parts = list(self._cut(owners, first_seqs, steps, rows))
        for handles, first_seqs, steps, rows in parts:
            reply = pb.AttachResponse()
            result = reply.outputs  # filled in place: a message that is handed over is copied
            result.handles.extend(handles)
            result.first_seqs.extend(first_seqs)
            result.steps, result.outputs = steps, rows.tobytes()
            self.outbox.put(reply)

    def _cut(
        self, handles: list[int], first_seqs: list[int], steps: int, rows: Bytes2D
    ) -> Iterator[_Outputs]:
        """Parts that fit into a message each. A single step that is too large goes as it is."""
        most, row_bytes = self.outbox.max_message_bytes, rows.shape[1] + _ROW_OVERHEAD_BYTES
        if row_bytes <= most:
            count = most // row_bytes
            for at in range(0, len(handles), count):
                part = slice(at, at + count)
                yield handles[part], first_seqs[part], steps, rows[part]
            return
        width = rows.shape[1] // steps
        count = max(1, (most - _ROW_OVERHEAD_BYTES) // width)
        for i, (handle, first_seq) in enumerate(zip(handles, first_seqs, strict=True)):
            for at in range(0, steps, count):
                piece = rows[i : i + 1, at * width : (at + count) * width]
                yield [handle], [first_seq + at], piece.shape[1] // width, piece

    def durable(self, owners: list[int], seqs: list[int]) -> None:
        """See `Door.durable`."""
        durable = pb.Durable(handles=owners, durables=seqs)
        self.outbox.put(pb.AttachResponse(durable=durable))

    def failed(self, refused: Sequence[tuple[int, int]], error: CarouselError) -> None:
        """See `Door.failed`."""
        if not (STORE_WAITS in error.metadata and self.outbox.crowded()):
            self.refuse_all(refused, error)

    def bound(self, owner: int, session: SessionView) -> None:
        """See `Door.bound`."""
        bound = pb.Bound(handle=owner, session=session_message(session))
        self.outbox.put(pb.AttachResponse(bound=bound))

    def refused(self, owner: int, error: CarouselError) -> None:
        """See `Door.refused`."""
        del self.seat_of[owner]
        self.refuse(owner, error)
        self._end_if_done()

    def away(self, owner: int, session: SessionView) -> None:
        """Tells the client nothing: its handle stays, and the next block brings the session back."""

    def left(self, owner: int, error: CarouselError | None) -> None:
        """See `Door.left`."""
        del self.seat_of[owner]
        status = None if error is None else status_of(error)
        self.outbox.put(pb.AttachResponse(unbound=pb.Unbound(handle=owner, status=status)))
        self._end_if_done()

    def moved(self, owner: int, address: str) -> None:
        """See `Door.moved`."""
        del self.seat_of[owner]
        self.outbox.put(pb.AttachResponse(moved=pb.Moved(handle=owner, address=address)))
        self._metrics.redirected()
        self._end_if_done()

    # -- refusals

    def refuse(self, handle: int, error: CarouselError, seq: int = 0) -> None:
        """Tells the client that a message or step was refused."""
        self.refuse_all([(handle, seq)], error)

    def refuse_all(self, refused: Sequence[tuple[int, int]], error: CarouselError) -> None:
        """Tells the client of handles, each with its first step concerned, that they were refused.

        One message for all: where there is too much to do, to say so must not cost more than to do it.
        """
        count_refusal(self._metrics, error, len(refused))
        handle, seq = refused[0]
        failure = pb.Failure(handle=handle, seq=seq, status=status_of(error))
        if len(refused) > 1:
            failure.handles.extend(handle for handle, _ in refused)
            failure.seqs.extend(seq for _, seq in refused)
        self.outbox.put(pb.AttachResponse(failure=failure))

    # -- the end

    def announce_drain(self, grace_s: float, *, hands_over: bool) -> None:
        """See `Drainable.announce_drain`."""
        self.outbox.put(pb.AttachResponse(drain=pb.Drain(grace=duration_of(grace_s))))
        self._hands_over = hands_over
        self._end_if_done()

    def _end_if_done(self) -> None:
        """Ends the stream in good order once all its sessions have moved, if the server stops."""
        if self._hands_over and self.follows and not self.seat_of:
            self.outbox.end(None)

    def finish(self, error: CarouselError) -> None:
        """Sends what is ready, then ends the stream with `error`."""
        self.outbox.end(error)

    def close(self) -> None:
        """Unbinds all sessions; they live on."""
        self.outbox.end(None)
        self.seats.shut()
