"""Handles whose session has gone to the store: what comes for them waits until it is back.

The client notices nothing: its handle stays, and the next block, or a Replay, fetches the session.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field

from carousel_server.core.errors import CarouselError
from carousel_server.core.ports import Ack, CatalogPort, Close, Place, Replay, StepBlock, ask
from carousel_server.core.sinks import StepSink
from carousel_server.core.types import SessionView

from .binding import Binding

_ELSEWHERE = ("SESSION_PARKED", "SESSION_CLOSED")
"""Of a session that another close has just ended too: the store may not have heard of it yet."""

CANNOT_RUN = ("FINGERPRINT_MISMATCH", "MODEL_NOT_FOUND", "SNAPSHOT_DAMAGED")
"""Why no engine takes a session from the store. It can be closed all the same."""

RETRY_AFTER_S = 0.05
"""The hint that goes with what passes soon."""


@dataclass(slots=True)
class Parked:
    """A handle that waits for its session, or for a reason to fetch it.

    Attributes:
        binding: as it was; its engine still serves the model.
        applied, epoch: as the session went to the store.
        ack: last output that the client is known to have.
        waking: the tag under which the session is being fetched; 0 if it is not.
        replay: the client has asked for its kept outputs.
        blocks: of one row each, to be submitted once it is back.
    """

    binding: Binding
    applied: int
    epoch: int
    ack: int
    waking: int = 0
    replay: bool = False
    blocks: deque[StepBlock] = field(default_factory=deque)

    def add(self, block: StepBlock, retry_after_s: float) -> None:
        """Lets a block wait.

        Raises:
            CarouselError: WINDOW_EXCEEDED: more wait than the session's window could take.
        """
        limit = self.binding.engine.model.window_steps
        if sum(waiting.steps for waiting in self.blocks) + block.steps > limit:
            raise CarouselError(
                "WINDOW_EXCEEDED",
                f"more than {limit} steps wait for a session that comes back from the store",
                metadata={"limit": limit},
                retry_after_s=retry_after_s,
                seq=block.first_seqs[0],
            )
        self.blocks.append(block)

    def go_on(self, binding: Binding, sink: StepSink) -> Iterator[tuple[int, CarouselError]]:
        """Submits what waited, for the row that the session is on now, in the order of the steps.

        Yields what was refused and why: the first seq of a block, or 0 for the Replay. What follows a refused
        block is refused too, since it could only meet a gap.
        """
        engine = binding.engine
        ask(engine, Ack(sink, [binding.ref], [self.ack]))
        refused: CarouselError | None = None
        if self.replay:
            try:
                engine.submit(Replay(binding.ref, sink, binding.tag))
            except CarouselError as error:
                yield 0, error
        for block in sorted(self.blocks, key=lambda block: block.first_seqs[0]):
            block.tags, block.refs = [binding.tag], [binding.ref]
            try:
                if refused is None:
                    engine.submit(block)
            except CarouselError as error:
                refused = error
            if refused is not None:
                yield block.first_seqs[0], refused


def close_session(catalog: CatalogPort, tenant: str, binding: Binding) -> Future[None]:
    """Closes a session, on its row or, if it has just left that, in the store.

    Done once nothing can bring it back, or once that is up to its TTL. Its only errors are DRAINING and
    QUEUE_FULL: the session can be closed soon, here or at the next server.
    """
    done: Future[None] = Future()

    def closed(reply: Future[SessionView]) -> None:
        error = reply.exception()
        if isinstance(error, CarouselError) and error.reason in _ELSEWHERE:
            elsewhere = close_parked(catalog, tenant, binding.session_id)
            elsewhere.add_done_callback(lambda told: _settle(done, told.exception()))
        else:
            _settle(done, error)

    ask(binding.engine, Close(binding.ref)).add_done_callback(closed)
    return done


def _settle(done: Future[None], error: BaseException | None) -> None:
    if isinstance(error, CarouselError) and error.reason in ("DRAINING", "QUEUE_FULL"):
        done.set_exception(error)
    else:
        done.set_result(None)


def close_parked(catalog: CatalogPort, tenant: str, session_id: str) -> Future[None]:
    """Fetches a session for that alone, and closes it; on any thread. Done as above."""
    done: Future[None] = Future()

    def found(reply: Future[Place]) -> None:
        error = reply.exception()
        if isinstance(error, CarouselError) and error.reason in CANNOT_RUN:
            discarded = catalog.discard(tenant, session_id)
            discarded.add_done_callback(lambda told: _settle(done, told.exception()))
            return
        if error is not None:
            _settle(done, error)
            return
        engine, ref = reply.result()
        closed = close_session(catalog, tenant, Binding(engine, ref, 0, session_id, 0))
        closed.add_done_callback(lambda told: _settle(done, told.exception()))

    try:
        catalog.resume(tenant, session_id).add_done_callback(found)
    except CarouselError as error:
        _settle(done, error)
    return done


def not_fetched(error: CarouselError) -> CarouselError:
    """Why a handle is taken away whose client waits for a Replay."""
    message = f"the session could not be fetched from the store: {error.message}"
    return CarouselError("LEASE_LOST", message, retry_after_s=error.retry_after_s)


def went_back(applied: int, parked: int) -> CarouselError:
    """Why a handle is taken away whose session comes back in the past."""
    message = f"the store went back: step {parked} was kept, and now {applied} is the last"
    return CarouselError("LEASE_LOST", message, retry_after_s=RETRY_AFTER_S)
