"""Sessions come and go: open, get, list, close, expire, export, import, fork, drain."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from carousel_server.core.errors import CarouselError
from carousel_server.core.ports import (
    Ack,
    Export,
    Fork,
    Generate,
    Get,
    Import,
    Infer,
    List,
    Open,
    Replay,
    StepBlock,
)
from carousel_server.core.types import Durability, GenerateSpec, OpenSpec, Phase
from carousel_server.residency.directory import Directory
from carousel_server.rows.snapshot import decode, encode

from .fakes import RecordingSink, RecordingTokens, Rig, RunningSum, block


@pytest.fixture
def rig() -> Rig:
    return Rig()


def refused(rig: Rig, command: Any) -> CarouselError:
    with pytest.raises(CarouselError) as caught:
        rig.run(command)
    return caught.value


def test_a_new_session_is_resident_at_zero(rig: Rig) -> None:
    ref, view = rig.run(Open(OpenSpec("t", "a", seed=5)))
    assert (view.id, view.model, view.phase) == ("a", "sum", Phase.RESIDENT)
    assert (view.applied, view.ack, view.durable, view.epoch) == (0, 0, 0, 1)
    assert (view.durability, view.seed, view.window_steps) == (Durability.NONE, 5, 8)
    assert rig.run(Get(ref)) == view


def test_the_server_chooses_an_id_and_a_seed(rig: Rig) -> None:
    views = [rig.run(Open(OpenSpec("t", "")))[1] for _ in range(2)]
    assert len({v.id for v in views}) == len({v.seed for v in views}) == 2
    assert all(views[0].id)


def test_opening_again_finds_the_open_session(rig: Rig) -> None:
    first = rig.run(Open(OpenSpec("t", "a", seed=5)))
    assert rig.run(Open(OpenSpec("t", "a"))) == first
    assert refused(rig, Open(OpenSpec("t", "a", seed=6))).reason == "SESSION_EXISTS"
    assert refused(rig, Open(OpenSpec("t", "a", idle_ttl_s=9))).reason == "SESSION_EXISTS"


def test_an_id_belongs_to_a_tenant_and_to_one_model() -> None:
    directory = Directory()
    one = Rig(directory=directory)
    other_model = RunningSum()
    other_model.manifest = other_model.manifest.model_copy(update={"name": "other"})
    two = Rig(other_model, directory=directory)
    one.open("a")
    assert one.open("a", tenant="u") != one.open("a")
    assert refused(two, Open(OpenSpec("t", "a"))).reason == "SESSION_EXISTS"
    assert two.engine._rows.slots.used == 0
    assert directory.why_gone("v", "a") == "SESSION_NOT_FOUND"


def test_a_full_slab_refuses_with_a_hint_and_takes_again_after_a_close(rig: Rig) -> None:
    refs = [rig.open(str(n)) for n in range(8)]
    error = refused(rig, Open(OpenSpec("t", "more")))
    assert (error.reason, error.metadata) == ("SLAB_FULL", {"slots": "8"})
    assert error.retry_after_s is not None
    rig.close(refs[3])
    assert rig.open("more").row == refs[3].row


def test_a_tenant_has_a_limit_of_its_own() -> None:
    rig = Rig(sessions_per_tenant=2)
    ref = rig.open()
    rig.open()
    assert refused(rig, Open(OpenSpec("t", ""))).reason == "TOO_MANY_SESSIONS"
    rig.open(tenant="u")
    rig.close(ref)
    rig.open()


def test_only_what_is_there_can_be_promised(rig: Rig) -> None:
    for durability in (Durability.ASYNC, Durability.SYNC, Durability.SYNC_FSYNC):
        error = refused(rig, Open(OpenSpec("t", "", durability)))
        assert error.reason == "DURABILITY_UNAVAILABLE"
    rig.open(durability=Durability.NONE)


def test_a_bidirectional_model_has_no_sessions() -> None:
    error = refused(Rig(RunningSum(causal=False)), Open(OpenSpec("t", "")))
    assert error.reason == "MODEL_NOT_CAUSAL"
    assert "Infer" in error.message


def test_an_idle_session_expires_and_says_so(rig: Rig) -> None:
    sink = RecordingSink()
    ref = rig.session(sink, session_id="a")
    rig.run(block(sink, ref, 1, 1))
    rig.now += 3599
    rig.tick()
    assert rig.run(Get(ref)).applied == 1
    rig.now += 2
    rig.tick()
    assert [error.reason for _, error in sink.gone] == ["SESSION_EXPIRED"]
    assert refused(rig, Get(ref)).reason == "SESSION_EXPIRED"
    assert rig.directory.why_gone("t", "a") == "SESSION_EXPIRED"
    assert rig.metrics.ends == ["expired"]
    assert rig.open("a") != ref


def test_a_step_keeps_a_session_alive(rig: Rig) -> None:
    sink = RecordingSink()
    ref = rig.session(sink)
    for seq in range(1, 5):
        rig.now += 3000
        rig.run(block(sink, ref, seq, 1))
    assert rig.run(Get(ref)).applied == 4


def test_each_session_has_its_own_ttl_up_to_a_limit() -> None:
    rig = Rig(max_idle_ttl_s=100)
    short, long = rig.open(idle_ttl_s=10), rig.open(idle_ttl_s=1e9)
    rig.now += 50
    rig.tick()
    assert refused(rig, Get(short)).reason == "SESSION_EXPIRED"
    assert rig.run(Get(long)).idle_ttl_s == 100


def test_a_closed_session_is_told_from_one_that_never_was(rig: Rig) -> None:
    ref = rig.open("a")
    assert rig.close(ref).phase is Phase.CLOSED
    assert rig.directory.why_gone("t", "a") == "SESSION_CLOSED"
    assert refused(rig, Get(ref)).reason == "SESSION_CLOSED"


def test_a_tenant_lists_only_its_own(rig: Rig) -> None:
    rig.open("a")
    rig.open("b")
    rig.open("a", tenant="u")
    assert {view.id for view in rig.run(List("t"))} == {"a", "b"}
    assert [view.id for view in rig.run(List("u"))] == ["a"]


def test_a_list_is_ordered_and_bounded(rig: Rig) -> None:
    for name in "cadb":
        rig.open(name)
    assert [view.id for view in rig.run(List("t", after="a", limit=2))] == ["b", "c"]
    assert [view.id for view in rig.run(List("t", after="c"))] == ["d"]


def test_an_import_goes_on_where_the_export_stood(rig: Rig) -> None:
    sink = RecordingSink()
    ref = rig.session(sink)
    rig.run(block(sink, ref, 1, 1, 2, 3))
    rig.run(Ack(sink, [ref], [1]))
    data, at = rig.run(Export(ref))
    rig.close(ref)
    copy, view = rig.run(Import(data, OpenSpec("t", "copy")))
    assert (view.id, view.applied, view.ack, view.epoch) == ("copy", 3, 1, at.epoch + 1)
    rig.bind(copy, sink, 2)
    rig.run(block(sink, copy, 2, 2, 3, 4, tag=2))
    assert sink.of(2) == [(2, [3, -3]), (3, [6, -6]), (4, [10, -10])]
    rig.run(block(sink, copy, 3, 99, tag=2))
    assert sink.reasons == ["SEQUENCE_REUSED"]


def test_an_import_never_overwrites(rig: Rig) -> None:
    data, _ = rig.run(Export(rig.open("a")))
    assert refused(rig, Import(data, OpenSpec("t", "a"))).reason == "SESSION_EXISTS"


def test_a_snapshot_of_other_weights_is_refused(rig: Rig) -> None:
    other = RunningSum()
    other.fingerprint = "1" * 64
    data, _ = rig.run(Export(rig.open()))
    strange = Rig(other)
    assert refused(strange, Import(data, OpenSpec("t", ""))).reason == "FINGERPRINT_MISMATCH"
    assert strange.engine._rows.slots.used == 0


def test_a_snapshot_beyond_this_servers_window_is_refused(rig: Rig) -> None:
    sink = RecordingSink()
    ref = rig.session(sink)
    rig.run(block(sink, ref, 1, *range(8)))
    rig.settle()
    data, _ = rig.run(Export(ref))
    error = refused(Rig(window_steps=4), Import(data, OpenSpec("t", "")))
    assert error.reason == "SNAPSHOT_INVALID"


def test_a_fork_leaves_its_origin_alone(rig: Rig) -> None:
    sink = RecordingSink()
    ref = rig.session(sink)
    rig.run(block(sink, ref, 1, 1))
    fork, view = rig.run(Fork(ref, OpenSpec("t", "fork")))
    assert view.applied == 1
    rig.bind(fork, sink, 2)
    rig.run(block(sink, fork, 2, 100, tag=2))
    rig.run(block(sink, ref, 2, 1))
    assert sink.of(2) == [(2, [101, -101])]
    assert sink.of(1)[-1] == (2, [2, -2])


def test_draining_begins_nothing_new_and_finishes_what_is_there(rig: Rig) -> None:
    sink = RecordingSink()
    ref = rig.session(sink)
    rig.engine.drain()
    rig.now += 1
    rig.tick()
    assert refused(rig, Open(OpenSpec("t", ""))).reason == "DRAINING"
    assert rig.run(Get(ref)).phase is Phase.DRAINING
    rig.run(block(sink, ref, 1, 1))
    assert sink.of(1) == [(1, [1, -1])]
    assert rig.close(ref).phase is Phase.CLOSED


def test_the_window_shrinks_to_its_memory_and_says_when_it_cannot() -> None:
    assert Rig(window_bytes=8 * 33 * 4).engine.model.window_steps == 4
    with pytest.raises(ValueError, match="window_bytes"):
        Rig(window_bytes=100)


def test_a_thread_that_turns_serves_and_stops(rig: Rig) -> None:
    engine = rig.engine
    assert not engine.healthy
    engine.start()
    command = Open(OpenSpec("t", "a"))
    engine.submit(command)
    assert command.reply.result(timeout=5)[1].id == "a"
    assert engine.healthy
    engine.stop()
    engine.stop()
    assert not engine.healthy
    with pytest.raises(CarouselError, match="DRAINING"):
        engine.submit(Open(OpenSpec("t", "b")))


def test_a_defect_in_a_tick_makes_the_model_unhealthy_and_leaves_nobody_waiting(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise LookupError("a defect")

    sink = RecordingSink()
    ref = rig.session(sink)
    monkeypatch.setattr(rig.engine._stepping, "select", broken)
    rig.engine.submit(block(sink, ref, 1, 1))
    rig.engine.start()
    rig.engine._thread.join(timeout=5)
    assert not rig.engine.healthy
    assert sink.reasons == ["MODEL_UNHEALTHY"]
    with pytest.raises(CarouselError, match="MODEL_UNHEALTHY"):
        rig.engine.submit(Open(OpenSpec("t", "b")))


@pytest.mark.parametrize("stuck", [False, True])
def test_a_tick_that_does_not_end_makes_the_model_unhealthy(rig: Rig, stuck: bool) -> None:
    rig.engine.start()
    rig.engine._tick_began_s = rig.now - (61 if stuck else 59)
    assert rig.engine.healthy is not stuck or rig.engine._tick_began_s is None
    if stuck:
        with pytest.raises(CarouselError, match="MODEL_UNHEALTHY"):
            rig.engine.submit(Open(OpenSpec("t", "b")))
    rig.engine._tick_began_s = None
    rig.engine.stop()


def test_a_defect_in_one_command_costs_only_that_command(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise LookupError("a defect")

    ref = rig.open("a")
    monkeypatch.setattr(rig.engine._residency, "take", broken)
    commands = [Export(ref), Open(OpenSpec("t", "b")), Get(ref)]
    for command in commands:
        rig.engine.submit(command)
    rig.tick()
    with pytest.raises(CarouselError, match="INTERNAL"):
        commands[0].reply.result(0)
    assert commands[1].reply.result(0)
    assert commands[2].reply.result(0)


def test_at_the_end_everybody_is_answered(rig: Rig) -> None:
    """Steps taken and not run, a generation, a sequence, and commands behind a broken sink."""
    model = Rig(RunningSum(tokens=True), chunk_steps=1)
    sink, tokens = RecordingSink(), RecordingTokens()
    fed, generating = model.session(sink), model.open()
    ones = np.ones(5, "<i4")
    model.run(StepBlock(sink, [1], [fed], [1], 5, ones.tobytes()))
    model.run(Generate(generating, GenerateSpec(ones.astype(np.int32), 9), tokens))
    infer, last = Infer(ones.tobytes()), Get(fed)
    for command in (infer, Replay(fed, _Raising()), StepBlock(sink, [1], [fed], [6], 1, b"1234")):
        model.engine.submit(command)
    model.engine.submit(Generate(fed, GenerateSpec(None, 9), _Raising()))
    model.engine.submit(last)
    model.engine.stop()
    assert tokens.error is not None
    assert {tokens.error.reason, *sink.reasons} == {"DRAINING"}
    assert len(sink.refusals) == 2
    for command in (infer, last):
        with pytest.raises(CarouselError, match="DRAINING"):
            command.reply.result(0)


class _Raising(RecordingSink, RecordingTokens):
    """A sink with a defect."""

    def failures(self, *_: object) -> None:
        raise LookupError("a defect")

    def failed(self, error: CarouselError) -> None:
        raise LookupError("a defect")


def test_a_session_with_steps_to_run_is_not_idle() -> None:
    rig, sink = Rig(max_batch=1, chunk_steps=1), RecordingSink()
    a, b = rig.session(sink, 1), rig.session(sink, 2)
    for tag, ref in ((1, a), (2, b)):
        rig.engine.submit(block(sink, ref, 1, 1, 1, tag=tag))
    rig.tick()
    rig.now += 4000
    rig.tick()
    assert rig.metrics.ends == []
    rig.settle()


def test_outputs_and_binds_count_as_use(rig: Rig) -> None:
    sink = RecordingSink()
    ref = rig.session(sink)
    rig.engine.submit(block(sink, ref, 1, 1))
    rig.engine._control.run(rig.engine._inbox.drain(), rig.now)
    rig.now += 3000
    rig.settle()
    rig.now += 3000
    rig.tick()
    rig.bind(ref, RecordingSink())
    rig.now += 3000
    rig.tick()
    assert rig.run(Get(ref)).applied == 1


def test_opening_again_counts_as_use(rig: Rig) -> None:
    ref = rig.open("a")
    rig.now += 3000
    assert rig.open("a") == ref
    rig.now += 3000
    rig.tick()
    assert rig.run(Get(ref))


def test_a_refused_open_keeps_the_memory_of_how_the_id_ended() -> None:
    rig = Rig(slots=1)
    rig.close(rig.open("a"))
    other = rig.open("b")
    assert refused(rig, Open(OpenSpec("t", "a"))).reason == "SLAB_FULL"
    assert rig.directory.why_gone("t", "a") == "SESSION_CLOSED"
    rig.close(other)


def test_draining_starts_no_generation() -> None:
    rig = Rig(RunningSum(tokens=True))
    ref, tokens = rig.open(), RecordingTokens()
    rig.engine.drain()
    rig.now += 1
    rig.tick()
    rig.run(Generate(ref, GenerateSpec(np.ones(1, np.int32), 1), tokens))
    assert tokens.error is not None
    assert tokens.error.reason == "DRAINING"


def altered(data: bytes, **changed: Any) -> bytes:
    """A snapshot with other content and a right checksum, as a hostile client would make it."""
    return encode(replace(decode(data), **changed))


@pytest.mark.parametrize(
    "changed",
    [
        {"state": {"sum": np.zeros(3, "<f4")}},
        {"state": {"other": np.zeros(8, "<f4")}},
        {"state": {"sum": np.zeros(8, "<i4")}},
        {"next_token": 8},
        {"recent_tokens": (8,)},
        {"recent_tokens": (-1,)},
        {"kept_inputs": np.asarray([[9, 0, 0, 0]], np.uint8)},
        {"kept_inputs": np.zeros((1, 8), np.uint8)},
    ],
)
def test_a_snapshot_that_does_not_fit_the_model_is_refused(changed: dict[str, Any]) -> None:
    rig, sink = Rig(RunningSum(tokens=True)), RecordingSink()
    ref = rig.session(sink)
    rig.run(StepBlock(sink, [1], [ref], [1], 1, np.asarray([1], "<i4").tobytes()))
    data, _ = rig.run(Export(ref))
    error = refused(rig, Import(altered(data, **changed), OpenSpec("t", "")))
    assert error.reason == "SNAPSHOT_INVALID"
    assert rig.engine._rows.slots.used == 1


def test_a_row_is_clean_whatever_was_in_it(rig: Rig) -> None:
    rig.engine._rows.slab.restore(0, {"sum": np.ones(2, "<f4")})
    rig.engine._rows.tokens.recent[0] = 5
    rig.engine._rows.tokens.next_token[0] = 5
    ref = rig.open()
    assert ref.row == 0
    assert not rig.engine._rows.slab.take(torch.tensor([0]))["sum"].any()
    assert (rig.engine._rows.tokens.recent[0] == -1).all()
    assert rig.engine._rows.tokens.next_token[0] == -1


def test_state_of_any_dtype_survives_a_snapshot(rig: Rig) -> None:
    ref = rig.open()
    bits = np.asarray([1.5, -0.0], "<f4")
    rig.engine._rows.slab.restore(ref.row, {"sum": bits})
    data, _ = rig.run(Export(ref))
    copy = rig.run(Import(data, OpenSpec("t", "")))[0]
    assert rig.engine._rows.slab.take(torch.tensor([copy.row]))["sum"].tobytes() == bits.tobytes()


def test_slow_ticks_do_not_put_off_what_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    model = RunningSum()
    rig, sink = Rig(model), RecordingSink()
    real = model.step

    def slow(*given: Any, **named: Any) -> Any:
        rig.now += 5.0
        return real(*given, **named)

    monkeypatch.setattr(model, "step", slow)
    ref = rig.session(sink)
    idle = rig.open("idle", idle_ttl_s=1.0)
    for seq in (1, 2):
        rig.run(block(sink, ref, seq, 1.0))
    rig.engine.drain()
    rig.now += 0.3
    rig.tick()
    assert rig.engine._rows.draining
    assert refused(rig, Get(idle)).reason == "SESSION_EXPIRED"


def test_a_sweep_that_takes_long_is_rarer_but_not_rare(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig()
    sweeps: list[float] = []

    def long_sweep(now: float) -> None:
        sweeps.append(now)
        rig.now += 0.5

    monkeypatch.setattr(rig.engine._residency, "park_idle", long_sweep)
    for _ in range(200):
        rig.now += 0.1
        rig.tick()
    gaps = np.diff(sweeps)
    assert gaps.min() >= 2.0
    assert gaps.max() < 3.0
