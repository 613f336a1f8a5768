# Made by generate_sync.py from _async/session.py: do not edit.
"""A session of the blocking client."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack

from carousel._core.arguments import blocks_ahead
from carousel._core.attach import AttachCore
from carousel._core.audio import Samples
from carousel._core.effects import Effects
from carousel._core.lane import Lane
from carousel._core.pieces import Pieces, patience_s
from carousel._core.requests import Prompt, generate_request
from carousel._core.resets import given_resets, with_marks
from carousel._core.rows import Array, ModelRows
from carousel._core.tickets import Rows, StepTicket, Ticket, UnbindTicket
from carousel._error_bases import CarouselError
from carousel.types import GenerateOptions, SessionInfo
from carousel_protos.states import decode_state
from carousel_protos.v1 import carousel_pb2 as pb

from .generation import Generation, GenerationOutcome, SessionHooks
from .pending import Pending
from .replicas import At, Replicas
from .source import Feed, frames
from .stream import AttachStream

if TYPE_CHECKING:
    from .client import Client


class Session:
    """One conversation with one model: its recurrent state lives on the server.

    Made by `session`, `attach`, `import_session` and `fork` of Client. May be used by
    several threads; steps are numbered in the order of the calls.

    Leaving its `with` block closes the session and forgets its state, except for one got by
    `Client.attach`, which is only detached.
    """

    def __init__(
        self,
        client: Client,
        stream: AttachStream,
        lane: Lane,
        rows: ModelRows,
        *,
        owned: bool,
    ) -> None:
        self._client = client
        self._stream = stream
        self._replicas = stream.replicas
        self._calls = stream.replicas.calls
        self._lane = lane
        self._rows = rows
        self._owned = owned
        self._journaled = lane.journal is not None
        # Last output that the application was given; its next call confirms it.
        self._handed = 0

    @property
    def id(self) -> str:
        """The session's name at the server; `Client.attach(id)` finds it again."""
        return self._lane.session_id

    @property
    def model(self) -> str:
        """The model's name."""
        return self._rows.name

    @property
    def applied(self) -> int:
        """Seq of the last step whose output has come; `info().applied` asks the server."""
        return self._lane.cursors.received

    @property
    def submitted(self) -> int:
        """Seq of the last step that was sent, and so is in the journal. Continue with the row after it."""
        return self._lane.cursors.sent

    @property
    def unread(self) -> int:
        """Number of outputs from before this object was attached, which `replay` fetches.

        The server keeps them, or with a journal an earlier process may not have seen them.
        """
        journal = self._lane.journal
        return self._lane.cursors.unread or (journal.unread if journal is not None else 0)

    def reset(self) -> None:
        """The next step starts from the session's initial state: a new episode, utterance or text.

        Sends nothing by itself. The reset belongs to the step, so it happens exactly once with it. It is for
        the next row of `step`, `steps` and `stream`, or for the next `generate`. If that fails before it has
        run, the reset is for the one after. Until then `export`, `fork` and `detach` have the old state.

        The source of a `stream` calls this just before it gives the first row of an episode.
        """
        self._calls.home.check()
        self._rows.check_resets()
        self._lane.next_reset.mark()

    def step(self, x: Any, *, timeout_s: float | None = None) -> Array:
        """One step: x is [*row] (a float row, or one token id) and the result [*output row].

        A refusal that passes is tried again within `timeout_s`, always with the same seq.

        Raises:
            InvalidInputError: of another shape or type, NaN, infinite, or an unknown token.
            NotFoundError: the session has expired or was closed.
            RefusedError: the server has no room for it just now.
            DataLossError: the server, or its store, has lost the session.
            StoreUnavailableError: the server's store takes nothing. The step may have run, and is kept.
            ReplyTimeoutError, ConnectionLostError: the step may have run; see the classes.
        """
        outputs = self._run(self._rows.encode(x)[None, None], timeout_s)
        output: Array = outputs[0]
        return output

    def steps(
        self,
        X: Any,  # noqa: N803
        *,
        resets: Any = None,
        timeout_s: float | None = None,
    ) -> Array:
        """Consecutive steps: X is [T, *row] and the result [T, *output row].

        `resets` is bool[T]: the steps that start from the session's initial state, see `reset`. All go in one
        message if they fit half a window, else in several, pipelined. For a model with a tokenizer of bytes,
        X may be a text or bytes. Raises as `step`, and `applied` then tells which steps have run.
        """
        inputs = self._rows.encode(X, None)[None]
        given = given_resets(resets, inputs.shape[1])
        self._rows.check_resets(used=given is not None)
        return self._run(inputs, timeout_s, None if given is None else given[None])

    def stream(
        self,
        rows: Iterable[Any],
        *,
        ahead: int | None = None,
        block_steps: int = 1,
        timeout_s: float | None = None,
    ) -> Iterator[Array]:
        """Feeds rows as they come and yields their outputs in order.

        Args:
            rows: each [*row]; taken one by one, on the thread that iterates.
            ahead: steps sent before their outputs are asked for; at most, and by default, the
                window. 1 waits for each output before the next row is taken.
            block_steps: rows gathered into one message; more make it faster, and the first output
                later.
            timeout_s: for each block.

        Raises:
            As `step`. Rows that were sent ahead have run, or will; `applied` tells. An error of `rows`, or
            of a row that is refused before it is sent, is raised after the outputs of the rows before.
        """
        most_blocks = blocks_ahead(self._lane.cursors.window, ahead, block_steps)
        limit_s = self._calls.timeout_s(timeout_s)
        feed = Feed(
            rows,
            block_steps,
            most_blocks,
            self._rows,
            self._lane.next_reset,
            lambda block, resets: self._submit(block[None], limit_s, resets),
        )
        try:
            while (pending := feed.next()) is not None:
                ticket = pending.wait(patience_s(limit_s))
                assert ticket is not None
                outputs = self._rows.decode(ticket.outputs[0].tobytes(), -1)
                for self._handed, output in enumerate(outputs, ticket.first_seqs[0]):
                    yield output
                    self._confirm()
        finally:
            feed.end()

    def stream_audio(
        self,
        chunks: Iterable[Any],
        *,
        ahead: int | None = None,
        timeout_s: float | None = None,
    ) -> Iterator[Array]:
        """Feeds a signal in chunks of any size, and yields each output row, in order.

        Args:
            chunks: samples of one channel: arrays [n] of int16, or of floats from −1 to 1, or bytes in the
                model's own type. They are taken one by one, on the thread that iterates.
            ahead: as in `stream`, in rows.
            timeout_s: for each step.

        The last samples are filled up with zeros to a whole frame. If the outputs are a signal too, zeros
        follow until the output of all samples has come. The signal then has `ModelInfo.signal.delay` samples
        more than came in.

        Raises:
            As `stream`. InputShapeError, InputDtypeError: the model takes no frames, or a chunk is no signal
            of one channel.
        """
        samples = Samples(self._rows)
        rows = frames(chunks, samples)
        for output in self.stream(rows, ahead=ahead, timeout_s=timeout_s):
            if len(ready := samples.trimmed(output)):
                yield ready

    def replay(self, *, timeout_s: float | None = None) -> Array:
        """The outputs from before this object was attached: [unread, *output row].

        Call it before the first step, which drops them.
        """
        row_bytes = self._rows.outputs.row_bytes
        pending: Pending[StepTicket] = Pending(lambda core: core.replay(self._lane, row_bytes))
        ticket = self._stream.ask(pending).wait(self._calls.timeout_s(timeout_s))
        if ticket is None:
            return self._rows.decode(b"", 0)
        self._handed = ticket.last_seq(0)
        return self._rows.decode(ticket.outputs[0].tobytes(), -1)

    def generate(
        self,
        prompt: Prompt = None,
        **options: Unpack[GenerateOptions],
    ) -> Generation:
        """Feeds the prompt and draws tokens in this session, whose state continues from there.

        Without a prompt it continues where the last generation stopped. The options are those of
        `Client.generate`. Don't step the session before the generation has ended.
        """
        request = generate_request(prompt, options, session_id=self.id)
        hooks = SessionHooks(self._generation_begins, self._generated)
        return Generation(self._replicas, request, options.get("timeout_s"), hooks, self._at())

    def info(self) -> SessionInfo:
        """The session as the server sees it now."""
        request = pb.GetSessionRequest(session_id=self.id)
        reply = self._replicas.unary("sessions", "GetSession", request, at=self._at())
        return SessionInfo.of(reply.message.session)

    def export(self) -> bytes:
        """A snapshot of state and cursors, for `Client.import_session` at the same weights."""
        return snapshot_of(self._replicas, self._at())

    def state(self) -> dict[str, Array]:
        """The states by name, each an array of its shape, after the steps that have run.

        A bfloat16 state is given as float32. `Client.session(state=…)` takes them again.

        Raises:
            SessionBusyError: a generation runs in the session.
            MessageTooLargeError: the states are larger than a message of the server.
        """
        return state_of(self._replicas, self._at())

    def fork(self, *, session_id: str | None = None, seed: int | None = None) -> Session:
        """A new session that begins with a copy of this one's state."""
        return self._client._fork(self._at(), session_id, seed)  # noqa: SLF001 - it is made by its client

    def close(self) -> None:
        """Ends the session and forgets its state. A second call does nothing."""
        self._unbind(close=True)

    def detach(self) -> None:
        """Releases the session, which stays open at the server until its idle_ttl passes.

        Where the session has a durability, first waits until all received outputs are durable.

        Raises:
            CarouselError: they cannot become durable, so steps whose outputs were received may be undone.
                DataLossError, ReplayDivergedError, SupersededError and others end a session so.
        """
        self._unbind(close=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._unbind(close=self._owned)
        except CarouselError:
            if error is None:
                raise

    def _at(self) -> At:
        """The session, for calls that go where it is."""
        return At(self.id, self._lane)

    def _confirm(self) -> None:
        """The application asks for more, so it does not want its last outputs again after a crash."""
        if self._journaled:
            pending: Pending[Ticket] = Pending(lambda core: (None, self._taken(core)))
            self._stream.ask(pending).wait(self._calls.options.timeout_s)

    def _taken(self, core: AttachCore) -> Effects:
        return core.taken(self._lane, self._handed)

    def _unbind(self, *, close: bool) -> None:
        self._confirm()
        pending: Pending[UnbindTicket] = Pending(lambda core: core.unbind(self._lane, close=close))
        self._stream.ask(pending).wait(self._calls.options.timeout_s)

    def _generation_begins(self, request: pb.GenerateRequest) -> None:
        """Completes a request that is about to be sent."""
        firsts: list[int] = []
        request.reset = self._lane.next_reset.take()

        def begin(core: AttachCore) -> tuple[None, Effects]:
            firsts.append(core.generation_begins(self._lane))
            return None, self._taken(core)

        pending: Pending[Ticket] = Pending(begin)
        self._stream.ask(pending).wait(self._calls.options.timeout_s)
        request.first_seq = firsts[0]

    def _generated(self, request: pb.GenerateRequest, outcome: GenerationOutcome) -> None:
        if request.reset and not outcome.has_begun and outcome.applied is None:
            self._lane.next_reset.mark()  # it has given nothing, so the reset is for what comes next
        pending: Pending[Ticket] = Pending(
            lambda core: (None, core.generated(self._lane, outcome.applied))
        )
        self._stream.tell(pending.tell)
        if (
            outcome.has_finished
        ):  # else it may be the garbage collector that calls, which must not wait
            pending.wait(self._calls.options.timeout_s)

    def _submit(self, inputs: Rows, timeout_s: float, resets: Rows | None) -> Pending[StepTicket]:
        row_bytes = self._rows.outputs.row_bytes

        def submit(core: AttachCore) -> tuple[StepTicket, Effects]:
            self._taken(core)
            lanes = [self._lane]
            return core.submit(lanes, inputs, row_bytes, timeout_s, resets=resets)

        return self._stream.ask(Pending(submit))

    def _run(self, inputs: Rows, timeout_s: float | None, resets: Rows | None = None) -> Array:
        pieces, next_reset = Pieces(inputs, resets), self._lane.next_reset

        def attempt(left_s: float) -> int:
            left = pieces.left
            marked = with_marks(pieces.resets_left, [next_reset.take()], left.shape[1])
            pending = self._submit(left, left_s, marked)
            try:
                ticket = pending.wait(patience_s(left_s))
                assert ticket is not None
                return ticket.last_seq(0)
            finally:
                if pending.ended and pending.ticket is not None:
                    pieces.take(pending.ticket)

        self._handed = self._calls.retrying(attempt, timeout_s)
        return self._rows.decode(pieces.outputs().tobytes(), -1)


def snapshot_of(replicas: Replicas, at: At) -> bytes:
    """A snapshot of a session's state and cursors, without attaching it."""
    request = pb.ExportSessionRequest(session_id=at.session_id)
    reply = replicas.unary("sessions", "ExportSession", request, at=at)
    return bytes(reply.message.snapshot)


def state_of(replicas: Replicas, at: At) -> dict[str, Array]:
    """The states of a session by name, without attaching it."""
    request = pb.GetStateRequest(session_id=at.session_id)
    reply = replicas.unary("sessions", "GetState", request, at=at)
    state = reply.message.state
    return {tensor.spec.name: decode_state(tensor).copy() for tensor in state}
