"""Step calls and their seats, when a session leaves its row at an unlucky moment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace

from support.fake_engine import WIDTH, FakeCatalog, FakeEngine
from support.wire import settled

from carousel_server.core.errors import CarouselError
from carousel_server.core.ports import Bind, Place, StepBlock
from carousel_server.core.store import SessionKey
from carousel_server.core.types import OpenSpec, SessionView
from carousel_server.wire.seat import State
from carousel_server.wire.unary import Callers

KEY = SessionKey("t", "s")
ROW = bytes(range(4 * WIDTH))
BUSY = CarouselError("QUEUE_FULL", "full", retry_after_s=0.1)


class Leaving(FakeEngine):
    """Does something just after it has bound a session, before anyone hears of the binding."""

    def __init__(self) -> None:
        super().__init__()
        self.next: Callable[[Bind], None] | None = None

    def submit(self, command: Bind) -> None:  # type: ignore[override]
        super().submit(command)
        if isinstance(command, Bind) and self.next is not None:
            act, self.next = self.next, None
            asyncio.get_running_loop().call_soon(act, command)

    def park(self, session_id: str) -> None:
        """Brings a session to the store."""
        session = self.session(session_id)
        assert session.sink is not None
        view: SessionView = replace(self._view(session), epoch=3)
        session.sink, sink = None, session.sink
        sink.away(session.tag, view)


def opened(engine: FakeEngine) -> tuple[FakeCatalog, Callers]:
    catalog = FakeCatalog(engine)
    catalog.open(engine, OpenSpec(*KEY)).result(timeout=1)
    return catalog, Callers(catalog)


def block(callers: Callers, seq: int) -> StepBlock:
    return StepBlock(callers.seats, (), (), [seq], 1, ROW)


async def test_a_session_that_leaves_as_soon_as_it_is_bound_is_fetched_for_its_call() -> None:
    engine = Leaving()
    _, callers = opened(engine)
    engine.next = lambda _: engine.park("s")
    assert await callers.step(KEY, block(callers, 1)) == (ROW, 0)
    assert callers.seats.state[1:] == [State.BOUND]


async def test_a_call_that_gives_up_while_its_session_is_fetched_keeps_no_seat() -> None:
    engine = Leaving()
    catalog, callers = opened(engine)
    await callers.step(KEY, block(callers, 1))
    engine.park("s")
    engine.hold()
    call = asyncio.ensure_future(callers.step(KEY, block(callers, 2)))
    await settled(lambda: isinstance(engine.seen[-1], Bind))
    engine.release()
    engine.hold()
    await settled(lambda: isinstance(engine.seen[-1], StepBlock))
    tag, sent = callers.seats.tag[1], engine.seen[-1]
    resumed: Future[Place] = Future()
    catalog.resume = lambda *_: resumed  # type: ignore[method-assign]
    engine.park("s")
    callers.seats.returned(tag, sent)
    await settled(lambda: callers.seats.state[1] is State.FETCHED)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    resumed.set_exception(BUSY)
    await settled(lambda: callers.seats.state[1] is State.LEFT)
    assert not callers._callers
