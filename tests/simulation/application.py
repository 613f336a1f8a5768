"""What a simulated application does with its session: open, feed, generate, rest, go on, close."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from google.rpc.status_pb2 import Status

from carousel._core.faults import error_of
from carousel._core.generation_replay import GenerationReplay
from carousel._core.retry import RetryPolicy
from carousel._error_bases import CarouselError, ConnectionLostError
from carousel_protos.v1 import carousel_pb2 as pb

from .client import ClientProcess, Work
from .histories import History, Writer
from .medium import JournalMedium
from .model import DIGITS, NAME, RESET
from .oracle import Oracle

if TYPE_CHECKING:
    from .world import World

POLICY = RetryPolicy(attempts=5, first_delay_s=0.02, max_delay_s=1.0, reconnect_s=30.0)
"""Of all clients."""

KEPT_S = 300.0
"""After so long idle a session expires: later than any schedule ends, so that what stays is seen."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What one application means to do with one session.

    Attributes:
        tickets: how often it hands in steps, or lets the session generate.
        most_steps: how many at most each time.
        depth: tickets that it lets wait at a time.
        pause_s: how long it thinks at most between two.
        opens: it opens the session; else it expects it to be there.
        generates: chance that it lets the session generate instead of feeding it.
        naps_s: how long it does nothing once, or 0.
        journals: it keeps a journal.
        closes: it closes the session in the end.
        resets: chance of a step to start from the initial state.
        idle_ttl_s: what it asks for when it opens.
    """

    tickets: int
    most_steps: int
    depth: int
    pause_s: float
    opens: bool = True
    generates: float = 0.0
    naps_s: float = 0.0
    journals: bool = False
    closes: bool = False
    idle_ttl_s: float = KEPT_S
    resets: float = 0.0


class Application:
    """One client's use of one session, in one or more of the client's lives.

    `why` says how it ended: "well", or with an error that the schedule must explain.
    """

    def __init__(
        self, world: World, oracle: Oracle, name: str, history: History, plan: Plan
    ) -> None:
        self.world = world
        self.oracle = oracle
        self.plan = plan
        self.history = history
        self.name = f"{name}/{history.id}"
        self.why = ""
        self._left = plan.tickets
        self._medium = JournalMedium(world) if plan.journals else None
        self._writer = Writer(self.name, history)
        # Last output that it told its journal not to want again.
        self._confirmed = 0
        # What was handed in and has not ended: tickets with their tokens.
        self._waiting: deque[tuple[Any, list[int]]] = deque()
        # The token that was drawn last, and from which step's output.
        self._last = (0, 0)

    @property
    def done(self) -> bool:
        """It has ended."""
        return bool(self.why)

    @property
    def owes_divergence(self) -> bool:
        """An output has come again and differed, and it was not told so."""
        return self._writer.must_diverge

    def died(self) -> None:
        """Its process is gone."""
        self._waiting.clear()
        if self._medium is not None:
            self._medium.tear()
            self._writer.told = self._confirmed
        elif self.history.generating and self.history.owner is self._writer:
            self.end("died while generating")  # nobody knows what was drawn
        else:
            self._writer = Writer(self.name, self.history)

    def run(self, client: ClientProcess) -> Work:
        """Its thread, from the beginning or after its process has died."""
        lane = yield from self._bind(client)
        while self._left and not self.done:
            self._left -= 1
            yield self._pause_s()
            while any(ticket.error for ticket, _ in self._waiting) and not self.done:
                yield from self._collect(client, lane)  # what was refused comes before what is new
            if self.world.rng.random() < self.plan.generates:
                yield from self._finish_steps(client, lane)
                yield from self._generate(client, lane)
            else:
                self._submit(client, lane, [self._mark(token) for token in self._draw_tokens()])
            while len(self._waiting) >= self.plan.depth and not self.done:
                yield from self._collect(client, lane)
        yield from self._finish_steps(client, lane)
        if self.done:
            return
        if self.plan.closes:
            self.history.closed_s = self.world.now_s
        ticket = client.unbind(lane, close=self.plan.closes)
        if ticket is not None:
            yield ticket
            if ticket.error is not None:
                self.fail(ticket.error)
                return
        self.end("well")

    # -- binding

    def _bind(self, client: ClientProcess) -> Work:
        """The lane, once the session is bound, and what an earlier life may have missed."""
        while not self.done:
            journal = None if self._medium is None else self._medium.open(self.history.id, NAME)
            known = journal is not None and journal.was_bound
            ticket = yield client.bind(self._writer, self._target(), journal)
            if ticket.error is None:
                if not known:
                    self._writer.told = ticket.session.applied
                else:
                    yield from self._read_missed(client, ticket.lane)
                return ticket.lane
            if not self._may_try_again(ticket.error):
                self.fail(ticket.error)
            yield 0.05 + self.world.rng.random() * 0.1
        return None

    def _target(self) -> str | pb.OpenSessionRequest:
        if not self.plan.opens:
            return self.history.id
        request = pb.OpenSessionRequest(model=NAME, session_id=self.history.id, seed=1)
        request.durability = int(self.history.durability)  # type: ignore[assignment]
        request.idle_ttl.FromMilliseconds(int(self.plan.idle_ttl_s * 1000))
        return request

    def _read_missed(self, client: ClientProcess, lane: Any) -> Work:
        """Outputs that the journal cannot tell to have been seen."""
        ticket, effects = client.core.replay(lane, DIGITS * 4)
        client.perform(effects)
        if ticket is not None:
            yield ticket
            first = ticket.first_seqs[0]
            tokens = self.history.tokens[first - 1 : first - 1 + ticket.steps]
            self._received(ticket, tokens)
            if ticket.error is not None and not ticket.error.retryable:
                self.fail(ticket.error)

    # -- steps

    def _submit(self, client: ClientProcess, lane: Any, tokens: list[int]) -> None:
        """Hands steps in, and so says that it has what it got."""
        if self.done:
            return
        try:
            if self._medium is not None:
                client.perform(client.core.taken(lane, self._writer.told))
                self._confirmed = self._writer.told
            self._waiting.append((client.submit([lane], [tokens]), tokens))
        except CarouselError as error:
            self.fail(error)

    def _finish_steps(self, client: ClientProcess, lane: Any) -> Work:
        while self._waiting and not self.done:
            yield from self._collect(client, lane)

    def _collect(self, client: ClientProcess, lane: Any) -> Work:
        """Waits for the oldest ticket; hands in again what was refused, and what was refused with it."""
        ticket, tokens = self._waiting.popleft()
        yield ticket
        rest = self._received(ticket, tokens)
        if ticket.error is None:
            return
        if ticket.error.reason == "STEP_FAILED" and self.oracle.stumbled:
            rest[0] %= (
                RESET  # the state is that of before the step, so another one may take its place
            )
        elif not ticket.error.retryable:
            self.fail(ticket.error)
            return
        self.oracle.refused(self._writer, ticket.error.reason or "")
        refused = [rest]
        while self._waiting:
            behind, tokens = self._waiting.popleft()
            yield behind
            refused.append(tokens)
        yield 0.05 + self.world.rng.random() * 0.1
        for tokens in refused:
            self._submit(client, lane, tokens)

    def _received(self, ticket: Any, tokens: Sequence[int]) -> list[int]:
        """Shows the oracle what came; returns the tokens that were not answered."""
        what = f"steps {ticket.first_seqs[0]} … {ticket.first_seqs[0] + len(tokens) - 1}"
        why = "" if ticket.error is None else f"failed with {ticket.error.reason}"
        self.world.note(self.name, what, "of", tokens, why)
        count = len(tokens) if ticket.error is None else max(ticket.answered_steps, 0)
        if count:
            rows = ticket.outputs[0, :count].tobytes()
            self.oracle.received(self._writer, ticket.first_seqs[0], tokens[:count], rows)
        return list(tokens[count:])

    # -- generations

    def _generate(self, client: ClientProcess, lane: Any) -> Work:
        """Lets the session generate; asks again as the SDK does."""
        if self.done:
            return
        try:
            first_seq = client.core.generation_begins(lane)
        except CarouselError as error:
            self.fail(error)
            return
        request = self._request(first_seq)
        replay = GenerationReplay(
            request,
            POLICY,
            first_answer_by_s=self.world.now_s + POLICY.reconnect_s,
            deadline_s=math.inf,
            rng=self.world.rng,
        )
        carry = [self._last[1]] if self._last[0] and self._last[0] + 1 == first_seq else []
        prompt = list(request.tokens.ids)
        if self._mark(0):
            request.reset, carry = True, []
            prompt[0] += RESET
        self.history.generating = True
        self.oracle.sent(self._writer, first_seq, [*carry, *prompt])
        while True:
            error, applied = yield from self._hear(client, lane, replay, request)
            if applied is not None:
                break
            delay_s = replay.delay_s(error, self.world.now_s)
            if delay_s is None and error.reason == "QUEUE_FULL":  # nothing has run: it slows down
                delay_s = 0.05 + self.world.rng.random() * 0.1
            if delay_s is None:
                client.perform(client.core.generated(lane, None))
                self.fail(error)
                return
            yield delay_s
        self.oracle.generated(self._writer, applied)
        client.perform(client.core.generated(lane, applied))

    def _request(self, first_seq: int) -> pb.GenerateRequest:
        rng = self.world.rng
        return pb.GenerateRequest(
            session_id=self.history.id,
            tokens=pb.Tokens(ids=self._draw_tokens()),
            max_tokens=rng.randint(1, 6),
            first_seq=first_seq,
            sampling=pb.Sampling(temperature=rng.choice((0.0, 1.0, 1.0))),
        )

    def _hear(
        self,
        client: ClientProcess,
        lane: Any,
        replay: GenerationReplay,
        request: pb.GenerateRequest,
    ) -> Work:
        """One call: why it ended badly, or the last step if it went well."""
        replay.call_begins()
        call, applied = client.generate(request, lane), None
        while True:
            yield call
            while call.inbox:
                payload = call.inbox.popleft()
                if not isinstance(payload, bytes):
                    status = payload or Status()
                    lost = ConnectionLostError("the call broke")
                    error = error_of(status) if status.code else lost
                    if applied is None:
                        client.places.ended(call.address, self.history.id, error)
                    return error, applied
                client.places.answered(call.address)
                response = pb.GenerateResponse.FromString(payload)
                try:
                    tokens = replay.take(response)
                except CarouselError as error:
                    return error, None
                for token in tokens:
                    self.oracle.drawn(self._writer, token.seq, token.id)
                    self._last = (token.seq, token.id)
                if response.finish_reason:
                    applied = response.usage.applied

    def _may_try_again(self, error: CarouselError) -> bool:
        """Whether a caller would: the server may be back soon, or the session be opened by somebody."""
        if error.reason == "SESSION_NOT_FOUND":
            return self.plan.opens or not self.history.rolled_back
        return error.retryable or isinstance(error, ConnectionLostError)

    # -- the end

    def fail(self, error: CarouselError) -> None:
        """It goes no further; the oracle judges whether that is right."""
        reason = error.reason or type(error).__name__
        self.oracle.ended(self._writer, reason, str(error))
        self.end(reason)

    def end(self, why: str) -> None:
        """It is over."""
        self.world.note(self.name, "is done:", why)
        self.why = why

    # -- chance

    def _pause_s(self) -> float:
        nap = self.plan.naps_s and self._left == self.plan.tickets // 2
        return self.plan.naps_s if nap else self.world.rng.random() * self.plan.pause_s

    def _mark(self, token: int) -> int:
        """The token, now and then with a reset."""
        chance = self.plan.resets
        return token + RESET if chance and self.world.resets.random() < chance else token

    def _draw_tokens(self) -> list[int]:
        rng = self.world.rng
        return [rng.randrange(DIGITS) for _ in range(rng.randint(1, self.plan.most_steps))]
