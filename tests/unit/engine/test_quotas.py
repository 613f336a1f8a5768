"""A tenant's quotas in one engine: slots, state, steps that wait, the inbox."""

from __future__ import annotations

import numpy as np
import pytest

from carousel_server.core.errors import CarouselError
from carousel_server.core.ports import Generate, Infer, Open, StepBlock
from carousel_server.core.quotas import Quota, Quotas, TenantLimits
from carousel_server.core.types import GenerateSpec, OpenSpec, SessionRef

from .fakes import RecordingSink, RecordingTokens, Rig, RunningSum, block, rows


def rig(*, limits: dict[str, int] | None = None, **tenant: float) -> Rig:
    made = Quotas(TenantLimits(**tenant))  # type: ignore[arg-type]
    return Rig(quotas=made, **(limits or {}))


def quotas_of(rig: Rig) -> Quotas:
    return rig.engine._context.quotas


def refused(rig: Rig, tenant: str) -> str:
    """The quota that a tenant has reached when it opens one session more."""
    with pytest.raises(CarouselError) as error:
        rig.open(tenant=tenant)
    assert error.value.reason == "QUOTA_EXCEEDED"
    assert error.value.metadata["tenant"] == tenant
    assert error.value.retry_after_s
    return error.value.metadata["quota"]


def test_one_tenant_cannot_take_all_slots() -> None:
    server = rig(tenant_share=0.75)
    mine = [server.open(tenant="a") for _ in range(6)]
    assert refused(server, "a") == Quota.SHARE
    for _ in range(2):
        server.open(tenant="b")
    server.close(mine[0])
    assert refused(server, "a") == Quota.SHARE  # b has a part of it now
    server.close(mine[1])
    server.open(tenant="a")


@pytest.mark.parametrize(
    ("quota", "limit"), [(Quota.SESSIONS, 2), (Quota.STATE_BYTES, 2 * RunningSum().state_bytes)]
)
def test_sessions_and_their_state_are_limited_and_come_back(quota: Quota, limit: int) -> None:
    server = rig(**{quota: limit})
    first = server.open(tenant="a")
    server.open(tenant="a")
    assert refused(server, "a") == quota
    server.open(tenant="b")
    server.close(first)
    server.open(tenant="a")
    assert quotas_of(server).held("a", Quota.SESSIONS) == 2
    assert quotas_of(server).held("a", Quota.STATE_BYTES) == 2 * RunningSum().state_bytes


def test_a_full_slab_gives_back_what_was_counted() -> None:
    server = rig(limits={"slots": 1}, tenant_sessions=5)
    server.open(tenant="a")
    with pytest.raises(CarouselError, match="SLAB_FULL"):
        server.open(tenant="a")
    assert quotas_of(server).held("a", Quota.SESSIONS) == 1


def test_a_second_quota_that_is_reached_gives_the_first_back() -> None:
    server = rig(tenant_sessions=5, tenant_state_bytes=1)
    assert refused(server, "a") == Quota.STATE_BYTES
    assert quotas_of(server).held("a", Quota.SESSIONS) == 0


# -- steps that wait


def many(
    sink: RecordingSink, refs: list[SessionRef], first: int, steps: int, tenant: str
) -> StepBlock:
    """The same steps of each of some sessions; their tags are their places."""
    tags = list(range(len(refs)))
    inputs = rows(*[1.0] * steps) * len(refs)
    return StepBlock(sink, tags, refs, [first] * len(refs), steps, inputs, tenant=tenant)


def test_steps_beyond_the_limit_are_refused_and_the_others_run() -> None:
    server, sink, other = rig(tenant_steps=5), RecordingSink(), RecordingSink()
    refs = [server.open(tenant="a") for _ in range(4)]
    beside = server.open(tenant="b")
    for tag, ref in enumerate(refs):
        server.bind(ref, sink, tag)
    server.bind(beside, other)
    server.engine.submit(many(sink, refs, 1, 2, "a"))
    server.engine.submit(block(other, beside, 1, 1.0, 2.0))
    server.settle()
    assert [(tag, seq) for tag, seq, _ in sink.refusals] == [(2, 1), (3, 1)]
    assert sink.refusal_calls == 1
    error = sink.refusals[0][2]
    assert error.metadata == {"tenant": "a", "quota": "tenant_steps", "limit": "5"}
    assert error.retry_after_s
    assert [seq for seq, _ in sink.of(0)] == [seq for seq, _ in sink.of(1)] == [1, 2]
    assert [seq for seq, _ in other.of(1)] == [1, 2]
    # What was refused has left nothing: it is sent again and runs.
    server.engine.submit(many(sink, refs[2:], 1, 2, "a"))
    server.settle()
    assert len(sink.refusals) == 2


def test_what_waits_in_a_window_counts() -> None:
    server, sink = rig(limits={"chunk_steps": 1}, tenant_steps=6), RecordingSink()
    first, second = server.open(tenant="a"), server.open(tenant="a")
    server.bind(first, sink, 1)
    server.bind(second, sink, 2)
    server.engine.submit(block(sink, first, 1, *[1.0] * 6, tag=1))
    server.tick()  # one has run, five wait
    server.engine.submit(block(sink, second, 1, 1.0, 1.0, tag=2))
    server.tick()
    assert sink.reasons == ["QUOTA_EXCEEDED"]
    server.engine.submit(block(sink, second, 1, 1.0, 1.0, tag=2))
    server.settle()
    assert sink.reasons == ["QUOTA_EXCEEDED"]
    assert [seq for seq, _ in sink.of(2)] == [1, 2]


def test_a_repeated_step_needs_no_room() -> None:
    server, sink = rig(tenant_steps=2), RecordingSink()
    ref = server.open(tenant="a")
    server.bind(ref, sink)
    for _ in range(2):
        server.engine.submit(block(sink, ref, 1, 1.0, 2.0))
        server.settle()
    assert [seq for seq, _ in sink.of(1)] == [1, 2, 1, 2]
    server.engine.submit(block(sink, ref, 1, 1.0, 2.0, 3.0, 4.0, 5.0))
    server.settle()
    assert [(seq, error.reason) for _, seq, error in sink.refusals] == [(3, "QUOTA_EXCEEDED")]


def test_a_prompt_counts_as_steps() -> None:
    server = Rig(RunningSum(tokens=True), quotas=Quotas(TenantLimits(tenant_steps=4)))
    ref, tokens = server.open(tenant="a"), RecordingTokens()
    prompt = np.arange(5, dtype=np.int32)
    server.run(Generate(ref, GenerateSpec(prompt, 1), tokens))
    assert tokens.error is not None
    assert tokens.error.reason == "QUOTA_EXCEEDED"
    tokens = RecordingTokens()
    server.run(Generate(ref, GenerateSpec(prompt[:4], 1), tokens))
    server.settle()
    assert tokens.end is not None


# -- the inbox


def test_the_inbox_has_room_for_others_beside_one_that_floods() -> None:
    server = rig(limits={"inbox_commands": 20}, tenant_share=0.75)
    for _ in range(15):
        server.engine.submit(Open(OpenSpec("a", "")))
    with pytest.raises(CarouselError) as error:
        server.engine.submit(Open(OpenSpec("a", "")))
    assert error.value.reason == "QUOTA_EXCEEDED"
    assert error.value.metadata["quota"] == "tenant_share"
    other = Open(OpenSpec("b", ""))
    server.engine.submit(other)
    server.tick()
    assert other.reply.exception(timeout=0) is None
    for _ in range(15):  # the tick has taken all
        server.engine.submit(Open(OpenSpec("a", "")))


def test_the_bytes_of_the_inbox_are_shared_too() -> None:
    server = rig(limits={"inbox_bytes": 1000}, tenant_share=0.5)
    server.engine.submit(Infer(bytes(496), tenant="a"))
    with pytest.raises(CarouselError, match="QUOTA_EXCEEDED"):
        server.engine.submit(Infer(bytes(16), tenant="a"))
    server.engine.submit(Infer(bytes(248), tenant="b"))


def test_one_tenant_may_fill_an_inbox_that_nobody_shares() -> None:
    server = rig(limits={"inbox_commands": 4})
    for _ in range(4):
        server.engine.submit(Open(OpenSpec("a", "")))
    with pytest.raises(CarouselError, match="QUEUE_FULL"):
        server.engine.submit(Open(OpenSpec("a", "")))


# -- whole sequences, as steps


def test_steps_of_whole_sequences_are_limited_until_they_are_answered() -> None:
    server = rig(tenant_infer_steps=10)
    first = Infer(rows(*[1.0] * 8), tenant="a")
    server.engine.submit(first)
    with pytest.raises(CarouselError) as error:
        server.engine.submit(Infer(rows(*[1.0] * 3), tenant="a"))
    assert error.value.metadata["quota"] == "tenant_infer_steps"
    server.engine.submit(Infer(rows(*[1.0] * 8), tenant="b"))
    server.settle()
    assert len(first.reply.result(timeout=0)) == 8
    assert quotas_of(server).held("a", Quota.INFER_STEPS) == 0
    server.engine.submit(Infer(rows(*[1.0] * 10), tenant="a"))


def test_a_sequence_that_the_inbox_refuses_or_its_caller_withdraws_is_given_back() -> None:
    server = rig(limits={"inbox_commands": 1}, tenant_infer_steps=10)
    call = Infer(rows(1.0), tenant="a")
    server.engine.submit(call)
    with pytest.raises(CarouselError, match="QUEUE_FULL"):
        server.engine.submit(Infer(rows(1.0), tenant="a"))
    assert quotas_of(server).held("a", Quota.INFER_STEPS) == 1
    call.reply.cancel()
    assert quotas_of(server).held("a", Quota.INFER_STEPS) == 0
