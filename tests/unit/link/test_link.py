"""Wire's end and engines' end together, over fake engines: refusals, defects, withdrawals, the end."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.fake_engine import ECHO_TOKENS, FakeCatalog, FakeEngine
from support.link import linked
from support.wire import settled

from carousel_server.core import ports
from carousel_server.core.errors import CarouselError
from carousel_server.core.types import Durability, GenerateSpec, OpenSpec, SessionRef

ROW = np.arange(4, dtype="<f4").tobytes()
BUSY = CarouselError("QUEUE_FULL", "too much", retry_after_s=0.01)


class Heard:
    """A sink of either kind that writes down what it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, verb: str) -> Any:
        if verb.startswith("_"):
            raise AttributeError(verb)
        return lambda *arguments: self.calls.append((verb, arguments))

    @property
    def verbs(self) -> list[str]:
        return [verb for verb, _ in self.calls]


@pytest.fixture
async def link() -> AsyncIterator[SimpleNamespace]:
    engine, tokens = FakeEngine(), FakeEngine(ECHO_TOKENS)
    catalog = FakeCatalog(engine, tokens)
    async with linked(catalog) as front:
        yield SimpleNamespace(
            front=front, catalog=catalog, back=front.back, engine=engine, tokens=tokens,
            far=front.engine("echo"), far_tokens=front.engine("echo-tokens"),
        )  # fmt: skip


def block(sink: Any, ref: SessionRef, first: int = 1) -> ports.StepBlock:
    return ports.StepBlock(sink, [7], [ref], [first], 1, ROW)


async def opened(link: SimpleNamespace, name: str = "s") -> SessionRef:
    ref, view = await asyncio.wrap_future(link.front.open(link.far, OpenSpec("t", name)))
    assert view.id == name
    return ref


async def opened_beside(link: SimpleNamespace, crowded: Callable[[bool], None]) -> SessionRef:
    """Opens a session while the pipe has room."""
    crowded(False)
    ref = await opened(link)
    crowded(True)
    return ref


async def test_engines_and_their_models_are_known_on_both_sides(link):
    assert [e.model for e in link.front.engines()] == [link.engine.model, link.tokens.model]
    with pytest.raises(CarouselError, match="did you mean 'echo'") as caught:
        link.front.engine("ehco")
    assert caught.value.reason == "MODEL_NOT_FOUND"
    assert link.front.locate("t", "s") is None
    link.engine.healthy = False
    await settled(lambda: not link.far.healthy)
    assert link.far_tokens.healthy


async def test_a_session_is_opened_found_read_and_stepped(link):
    ref = await opened(link)
    place = await asyncio.wrap_future(link.front.resume("t", "s"))
    assert place == (link.far, ref)
    assert (await asyncio.wrap_future(link.front.peek("t", "s"))).id == "s"
    sink = Heard()
    bind = ports.Bind(ref, sink, 7)
    link.far.submit(bind)
    assert (await asyncio.wrap_future(bind.reply)).id == "s"
    step = block(sink, ref)
    link.far.submit(step)
    await settled(lambda: sink.calls)
    verb, (tags, firsts, steps, rows) = sink.calls[0]
    assert (verb, tags.tolist(), firsts.tolist(), steps) == ("outputs", [7], [1], 1)
    assert rows.tobytes() == step.inputs


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (lambda sink, ref: block(sink, ref), ("failures", ([7], [1]))),
        (lambda sink, ref: ports.Replay(ref, sink, 7), ("failures", ([7], [0]))),
    ],
)
async def test_a_refusal_at_the_engines_door_reaches_the_sink(link, command, told):
    ref = await opened(link)
    link.engine.refuse_next(object, BUSY)
    sink = Heard()
    link.far.submit(command(sink, ref))
    await settled(lambda: sink.calls)
    verb, arguments = sink.calls[0]
    assert (verb, tuple(arguments[:2])) == told
    assert (arguments[2].reason, arguments[2].retry_after_s) == ("QUEUE_FULL", 0.01)


async def test_a_refused_question_fails_its_future(link):
    ref = await opened(link)
    link.engine.refuse_next(ports.Get, BUSY)
    get = ports.Get(ref)
    link.far.submit(get)
    with pytest.raises(CarouselError, match="too much"):
        await asyncio.wrap_future(get.reply)


async def test_a_refused_generation_fails_its_sink_and_closes_its_own_session(link):
    command = ports.Open(OpenSpec("t", "", Durability.NONE))
    link.far_tokens.submit(command)
    ref, _ = await asyncio.wrap_future(command.reply)
    link.tokens.refuse_next(ports.Generate, BUSY)
    sink = Heard()
    spec = GenerateSpec(np.array([1], np.int32), 3)
    link.far_tokens.submit(ports.Generate(ref, spec, sink, close_after=True))
    await settled(lambda: sink.verbs == ["failed"] and not link.tokens.sessions)


@pytest.fixture
def crowded(link: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Says whether the pipe to the engines is crowded."""
    state = [True]
    monkeypatch.setattr(type(link.front.pipe), "crowded", property(lambda _: state[0]))
    return lambda now: state.__setitem__(0, now)


async def test_acks_that_meet_a_crowded_pipe_go_before_the_next_block(link, crowded):
    ref = await opened_beside(link, crowded)
    sink = Heard()
    for ack in (0, 2, 1):
        link.far.submit(ports.Ack(sink, [ref], [ack]))
    crowded(False)
    link.far.submit(block(sink, ref))
    await settled(lambda: sink.calls)
    last = [c for c in link.engine.seen if isinstance(c, ports.Ack | ports.StepBlock)]
    assert [type(command) for command in last] == [ports.Ack, ports.StepBlock]
    assert (list(last[0].refs), list(last[0].acks)) == ([ref], [2])


async def test_the_acks_of_a_block_that_meets_a_crowded_pipe_are_kept(link, crowded):
    ref = await opened_beside(link, crowded)
    sink = Heard()
    refused = block(sink, ref)
    refused.acks = [3]
    with pytest.raises(CarouselError, match="behind"):
        link.far.submit(refused)
    crowded(False)
    link.far.submit(ports.Replay(ref, sink, 7))
    await settled(lambda: any(isinstance(c, ports.Replay) for c in link.engine.seen))
    acks = [c for c in link.engine.seen if isinstance(c, ports.Ack)]
    assert [(list(ack.refs), list(ack.acks)) for ack in acks] == [([ref], [3])]


async def test_an_ack_that_an_engine_refuses_at_its_end_has_no_answer(link):
    ref = await opened(link)
    sink = Heard()
    bind = ports.Bind(ref, sink, 7)
    link.far.submit(bind)
    await asyncio.wrap_future(bind.reply)
    link.engine.refuse_next(ports.Ack, CarouselError("DRAINING", "it stops"))
    link.far.submit(ports.Ack(sink, [ref], [1]))
    link.far.submit(block(sink, ref))
    await settled(lambda: sink.calls)
    assert sink.verbs == ["outputs"]


async def test_a_session_that_nobody_could_name_is_closed_when_the_front_end_dies(link):
    link.engine.hold()
    unnamed, named = ports.Open(OpenSpec("t", "")), ports.Open(OpenSpec("t", "named"))
    link.far.submit(unnamed)
    link.far.submit(named)
    await settled(lambda: len(link.engine.seen) == 2)
    link.back.close()
    link.engine.release()
    assert [s.spec.session_id for s in link.engine.sessions.values()] == ["named"]


async def test_generations_end_with_the_front_end_that_reads_them(link):
    ref, _ = await asyncio.wrap_future(link.front.open(link.far_tokens, OpenSpec("t", "g")))
    link.tokens.hold()
    spec = GenerateSpec(np.array([1], np.int32), 3)
    sink = Heard()
    link.far_tokens.submit(ports.Generate(ref, spec, sink))
    await settled(lambda: isinstance(link.tokens.seen[-1], ports.Generate))
    link.back.close()
    assert isinstance(link.tokens.seen[-1], ports.CancelGenerate)
    assert link.tokens.seen[-1].sink is link.tokens.seen[-2].sink


async def test_a_defect_behind_the_link_is_answered_and_logged(link, caplog):
    link.engine.refusal = ZeroDivisionError("a secret")  # type: ignore[assignment]
    with pytest.raises(CarouselError) as caught:
        await opened(link)
    assert caught.value.reason == "INTERNAL"
    assert "secret" not in caught.value.message
    assert "a secret" in caplog.text


async def test_an_infer_that_is_given_up_is_withdrawn(link):
    link.engine.hold()
    command = ports.Infer(ROW)
    link.far.submit(command)
    await settled(lambda: link.engine.seen)
    assert command.reply.cancel()
    await settled(lambda: link.engine.seen[-1].reply.cancelled())


async def test_tokens_come_as_they_were_made(link):
    command = ports.Open(OpenSpec("t", "g"))
    link.far_tokens.submit(command)
    ref, _ = await asyncio.wrap_future(command.reply)
    sink = Heard()
    spec = GenerateSpec(np.array([1, 2], np.int32), 3)
    link.far_tokens.submit(ports.Generate(ref, spec, sink))
    await settled(lambda: "finished" in sink.verbs)
    tokens = [token for verb, (told, *_) in sink.calls if verb == "tokens" for token in told]
    assert [token.seq for token in tokens] == sorted(token.seq for token in tokens)
    assert len(tokens) == 3


async def test_texts_are_encoded_where_the_tokenizer_is(link):
    assert (await link.far_tokens.encode_text("ab")).tolist() == [97, 98]
    with pytest.raises(CarouselError, match="no tokenizer"):
        await link.far.encode_text("ab")
    ids, opening = await link.far_tokens.encode_prompt("ab")
    assert (ids.tolist(), opening) == ([97, 98], 0)
    with pytest.raises(CarouselError, match="TEXT_UNAVAILABLE"):
        await link.far.encode_prompt("ab")


async def test_a_sink_that_nobody_holds_is_forgotten_on_both_sides(link):
    ref = await opened(link)
    sinks = [Heard()]
    link.far.submit(block(sinks[0], ref))
    await settled(lambda: sinks[0].calls)
    assert len(link.front._sinks) == 1
    sinks.clear()
    gc.collect()
    assert len(link.front._sinks) == 0


async def test_a_process_that_takes_nothing_is_a_full_queue(link):
    link.front.pipe = SimpleNamespace(crowded=True)
    with pytest.raises(CarouselError) as caught:
        link.far.submit(ports.Get(SessionRef(0, 0)))
    assert caught.value.reason == "QUEUE_FULL"
    assert caught.value.retry_after_s
    with pytest.raises(CarouselError, match="behind"):
        link.front.resume("t", "s")
    link.front.pipe = SimpleNamespace(close=lambda: None, post=lambda *_: None)


async def test_an_answer_to_what_was_given_up_is_dropped(link):
    future: Future[Any] = Future()
    number = link.front.number_of(future)
    future.cancel()
    link.front.take(("answer", number, 1, None))
    assert future.cancelled()


async def test_a_front_end_knows_the_backlogged_tenants(link):
    quotas = link.catalog.quotas
    quotas.backlogged.set("echo", frozenset({"a", "b"}))
    await settled(lambda: link.front.quotas.backlogged.tenants == {"a", "b"})
    quotas.backlogged.set("echo", frozenset())
    await settled(lambda: not link.front.quotas.backlogged.tenants)
    link.back.close()
    quotas.backlogged.set("echo", frozenset({"a"}))
    assert not quotas.backlogged._watches


async def test_blocks_that_are_submitted_together_cross_together(link, monkeypatch):
    ref, other = await opened(link), await opened(link, "s2")
    sinks = [Heard(), Heard()]
    for sink, its in zip(sinks, (ref, other), strict=True):
        bind = ports.Bind(its, sink, 7)
        link.far.submit(bind)
        await asyncio.wrap_future(bind.reply)
    submitted: list[int] = []
    real = link.engine.submit_steps

    def noted(blocks):
        submitted.append(len(blocks))
        real(blocks)

    monkeypatch.setattr(link.engine, "submit_steps", noted)
    link.far.submit_steps([block(sinks[0], ref), block(sinks[1], other)])
    await settled(lambda: all(sink.calls for sink in sinks))
    assert submitted == [2]
    assert [sink.verbs for sink in sinks] == [["outputs"], ["outputs"]]


async def test_blocks_that_meet_a_crowded_pipe_fail_at_their_sinks_and_keep_their_acks(
    link, crowded
):
    ref = await opened_beside(link, crowded)
    sink = Heard()
    step = block(sink, ref)
    step.acks = [1]
    link.far.submit_steps([step])
    assert [(verb, told[2].reason) for verb, told in sink.calls] == [("failures", "QUEUE_FULL")]
    crowded(False)
    link.far.submit_steps([block(sink, ref)])
    await settled(lambda: any(isinstance(c, ports.StepBlock) for c in link.engine.seen))
    kinds = [type(c) for c in link.engine.seen if isinstance(c, ports.Ack | ports.StepBlock)]
    assert kinds == [ports.Ack, ports.StepBlock]
