"""Generate: tokens as they come, in a session of the caller's or in one of their own."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import cast

from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.core.catalog import CatalogPort
from carousel_server.core.errors import CarouselError
from carousel_server.core.futures import MOST_TRIES, passes
from carousel_server.core.ports import CancelGenerate, EnginePort, Open, Place, ask
from carousel_server.core.ports import Generate as GenerateCommand
from carousel_server.core.store import SessionKey
from carousel_server.core.types import (
    Durability,
    GeneratedToken,
    GenerateSpec,
    GenerationEnd,
    OpenSpec,
    SessionRef,
)

from .call import CallContext, current_call
from .errors import invalid
from .fields import deadline_after
from .gate import Gate
from .loop_calls import calls_of
from .options import WireOptions
from .pace import Pace
from .places import find_engine, find_session
from .prompts import generate_spec
from .replies import opening, placed, reply_of
from .states import check_initial
from .views import token_message

_TOKENS_PER_MESSAGE = 256
_MOST_UNREAD = 65_536
"""About 10 MB; as many tokens as a generation has by default, fewer where each has alternatives."""


class TokenQueue:
    """The tokens of one generation on their way to a client: a TokenSink.

    A slow client finds several tokens in one message. One that hardly reads at all loses the generation
    once _MOST_UNREAD tokens and alternatives wait for it, since nothing can make an engine wait.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, give_up: Callable[[], None]) -> None:
        """`give_up` is called once, when the client reads too little, to end the generation."""
        self._put = calls_of(loop).put
        self._give_up = give_up
        # Tokens and alternatives that wait.
        self._unread = 0
        self._tokens: deque[GeneratedToken] = deque()
        self._end: GenerationEnd | CarouselError | None = None
        self._changed = asyncio.Event()
        # Set once too much waits: nothing is taken any more.
        self._overrun: CarouselError | None = None
        # Set when the stream may write again; see `rest`.
        self._resting: asyncio.Future[None] | None = None
        # The token given to the client last.
        self._last = GeneratedToken(id=0, text="", seq=0)

    # -- on the engine's thread

    def tokens(self, tokens: Sequence[GeneratedToken]) -> None:
        """Takes new tokens."""
        self._on_loop(tokens, None)

    def finished(self, end: GenerationEnd) -> None:
        """Takes the end."""
        self._on_loop((), end)

    def failed(self, error: CarouselError) -> None:
        """Takes the end, if it is a bad one."""
        self._on_loop((), error)

    def _on_loop(
        self, tokens: Sequence[GeneratedToken], end: GenerationEnd | CarouselError | None
    ) -> None:
        self._put(self._take, tokens, end)

    # -- on the loop

    def _take(
        self, tokens: Sequence[GeneratedToken], end: GenerationEnd | CarouselError | None
    ) -> None:
        if self._overrun is not None:
            return
        self._tokens.extend(tokens)
        self._unread += sum(map(_weight, tokens))
        self._end = end or self._end
        if self._unread > _MOST_UNREAD:
            self._tokens.clear()
            self._overrun = _not_reading()
            self._give_up()
        if self._over and self._resting is not None and not self._resting.done():
            self._resting.set_result(None)
        self._changed.set()

    @property
    def ended(self) -> bool:
        """True once the engine has said its last word."""
        return self._end is not None

    @property
    def _over(self) -> bool:
        """True once nothing more will be taken."""
        return self._end is not None or self._overrun is not None

    async def next_message(self) -> tuple[pb.GenerateResponse, bool]:
        """What has come since the last call, and whether that was all.

        Raises:
            CarouselError: the generation failed; its tokens were given before.
        """
        while not self._tokens and not self._over:
            self._changed.clear()
            await self._changed.wait()
        if self._overrun is not None:
            raise self._overrun
        count = min(len(self._tokens), _TOKENS_PER_MESSAGE)
        tokens = [self._tokens.popleft() for _ in range(count)]
        self._unread -= sum(map(_weight, tokens))
        self._last = tokens[-1] if tokens else self._last
        message = pb.GenerateResponse(tokens=[token_message(token) for token in tokens])
        if self._tokens or self._end is None:
            return message, False
        if isinstance(self._end, CarouselError):
            if count:
                return message, False
            raise self._end
        _close_message(message, self._end, self._last)
        return message, True

    async def rest(self, pace: Pace) -> None:
        """To be called after a message: returns once the next one should go.

        That is at once if it is full already, or once nothing more comes.
        """
        if not self._over and len(self._tokens) < _TOKENS_PER_MESSAGE:
            self._resting = pace.rest()
            if self._resting is not None:
                await self._resting


class Generate:
    """The method Generate."""

    def __init__(self, catalog: CatalogPort, options: WireOptions, gate: Gate) -> None:
        self._catalog = catalog
        self._options = options
        self._gate = gate
        self._pace = Pace(options.max_token_delay_s)

    async def generate(self, request: pb.GenerateRequest, context: CallContext) -> None:
        """Generate. When the caller gives up, the generation ends where it is."""
        self._gate.refuse_if_draining()
        asked_s = time.monotonic()
        engine, ref = await self._target(request)
        deadline_s = deadline_after(context.time_remaining())
        limit = self._options.max_generate_tokens
        spec = await generate_spec(engine, request, limit, deadline_s)
        if ref is None:
            # Such a session needs no store: the request says all, so it can be asked again.
            initial = check_initial(engine.model, request.initial)
            own = OpenSpec(current_call().tenant, "", Durability.NONE, initial=initial)
            opened = placed(engine, ask(engine, Open(own)))
            (_, ref), _ = await opening(opened, keep_if_cancelled=False)
            await self._run(engine, ref, spec, context, asked_s, close_after=True)
            return

        for left in reversed(range(MOST_TRIES)):
            try:
                await self._run(engine, ref, spec, context, asked_s, close_after=False)
            except CarouselError as error:
                if not left or not passes(error, harmless=False):
                    raise
                engine, ref = await self._find(request)
            else:
                return

    async def _run(
        self,
        engine: EnginePort,
        ref: SessionRef,
        spec: GenerateSpec,
        context: CallContext,
        asked_s: float,
        *,
        close_after: bool,
    ) -> None:
        """Generates, and writes the tokens as they come."""

        def give_up() -> None:
            ask(engine, CancelGenerate(ref, queue))

        queue = TokenQueue(asyncio.get_running_loop(), give_up)
        ask(engine, GenerateCommand(ref, spec, queue, close_after, asked_s))
        try:
            last = False
            while not last:
                message, last = await queue.next_message()
                self._pace.write()
                await context.write(message)
                if not last:
                    await queue.rest(self._pace)
        finally:
            if not queue.ended:
                give_up()

    async def _target(self, request: pb.GenerateRequest) -> tuple[EnginePort, SessionRef | None]:
        """Engine and session; no session if this call gets one of its own."""
        match request.WhichOneof("target"):
            case "session_id":
                if request.initial:
                    raise invalid("initial", "is for a session of the call's own; name no session")
                return await self._find(request)
            case "model":
                return find_engine(self._catalog, request.model), None
        raise invalid("target", "set model or session_id")

    async def _find(self, request: pb.GenerateRequest) -> Place:
        key = SessionKey(current_call().tenant, request.session_id)
        return await reply_of(find_session(self._catalog, key))


def _weight(token: GeneratedToken) -> int:
    return 1 + len(token.alternatives)


def _not_reading() -> CarouselError:
    return CarouselError(
        "QUEUE_FULL",
        f"the client left {_MOST_UNREAD} tokens and alternatives unread; the generation has ended",
        metadata={"limit": _MOST_UNREAD},
        retry_after_s=1.0,
    )


def _close_message(message: pb.GenerateResponse, end: GenerationEnd, last: GeneratedToken) -> None:
    """Adds the end of a generation to its last message.

    Text that the detokenizer still held back (the first bytes of a character that never came whole)
    belongs to the last token. If that token has left already, it is named again to carry the text.
    """
    message.finish_reason = cast("pb.FinishReason.ValueType", int(end.reason))
    message.usage.prompt_tokens = end.prompt_tokens
    message.usage.generated_tokens = end.generated_tokens
    message.usage.applied = end.applied
    if end.text:
        if not message.tokens:
            message.tokens.add(id=last.id, seq=last.seq)
        message.tokens[-1].text += end.text
