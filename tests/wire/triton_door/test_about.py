"""What the door says of the server, and what it does not offer."""

from __future__ import annotations

import hashlib
import json

import pytest
from support.fake_engine import WIDTH
from support.server import FEATURES, LSTM, ServerProcess
from support.triton import TritonStubs
from support.wire import refused

from carousel_protos.triton import inference_pb2 as pb
from carousel_server.wire.triton.service import NOT_OFFERED


@pytest.mark.unlinked
async def test_the_server_lives_and_is_ready_while_its_models_are(wire, fake):
    assert (await fake.ask("ServerLive")).live
    assert (await fake.ask("ServerReady")).ready
    wire.engine.healthy = False
    assert not (await fake.ask("ServerReady")).ready
    assert not (await fake.ask("ModelReady", pb.ModelReadyRequest(name="echo"))).ready
    assert (await fake.ask("ModelReady", pb.ModelReadyRequest(name="echo-tokens"))).ready


@pytest.mark.parametrize(("name", "version"), [("nope", ""), ("echo", "2")])
async def test_what_is_not_there_is_not_ready(fake, name, version):
    question = pb.ModelReadyRequest(name=name, version=version)
    assert not (await fake.ask("ModelReady", question)).ready


async def test_the_servers_metadata_name_the_extensions_it_speaks(start_wire):
    wire = await start_wire(server_version="1.2.3")
    async with TritonStubs(wire.target) as stubs:
        told = await stubs.ask("ServerMetadata")
    assert (told.name, told.version) == ("carousel", "1.2.3")
    assert {"sequence", "statistics", "parameters"} <= set(told.extensions)


async def test_a_models_metadata_are_its_tensors(fake):
    told = await fake.ask("ModelMetadata", pb.ModelMetadataRequest(name="echo"))
    assert list(told.versions) == ["1"]
    assert [(t.name, t.datatype, list(t.shape)) for t in told.inputs] == [
        ("x", "FP32", [-1, WIDTH])
    ]
    assert [(t.name, t.datatype, list(t.shape)) for t in told.outputs] == [
        ("y", "FP32", [-1, WIDTH])
    ]


async def test_a_scalar_has_one_dimension(fake):
    told = await fake.ask("ModelMetadata", pb.ModelMetadataRequest(name="echo-tokens"))
    assert [(t.name, t.datatype, list(t.shape)) for t in told.inputs] == [
        ("token", "INT32", [-1, 1])
    ]


async def test_a_models_configuration_makes_it_a_sequence_model(start_wire):
    wire = await start_wire(default_idle_ttl_s=60.0, slots=77)
    async with TritonStubs(wire.target) as stubs:
        question = pb.ModelConfigRequest(name="echo")
        config = (await stubs.ask("ModelConfig", question)).config
    assert config.WhichOneof("scheduling_choice") == "sequence_batching"
    assert config.sequence_batching.max_sequence_idle_microseconds == 60_000_000
    assert config.sequence_batching.oldest.max_candidate_sequences == 77
    assert config.max_batch_size == 1
    assert not config.model_transaction_policy.decoupled
    assert (config.input[0].name, config.input[0].data_type) == ("x", pb.TYPE_FP32)
    assert list(config.output[0].dims) == [WIDTH]


@pytest.mark.parametrize("method", ["ModelMetadata", "ModelConfig", "ModelStatistics"])
async def test_an_unknown_model_is_told_so(fake, method):
    question = getattr(pb, f"{method}Request")(name="nope")
    error = await refused(fake.ask(method, question))
    assert error.message.startswith("Request for unknown model: 'nope' is not found")
    assert "(MODEL_NOT_FOUND)" in error.message


async def test_statistics_count_requests_and_ticks(fake):
    for n in range(3):
        await fake.infer("echo", [0.0] * WIDTH, 7, start=n == 0)
    await refused(fake.infer("echo", [0.0] * WIDTH, 8))
    question = pb.ModelStatisticsRequest(name="echo")
    (told,) = (await fake.ask("ModelStatistics", question)).model_stats
    assert (told.inference_count, told.execution_count) == (3, 3)
    assert told.inference_stats.success.count == 3
    assert told.inference_stats.success.ns > 0
    assert told.inference_stats.fail.count == 1
    assert told.last_inference > 1_700_000_000_000
    assert len((await fake.ask("ModelStatistics")).model_stats) == 2


def parts(stats):
    """Nanoseconds of each part, after their counts have been compared."""
    told = stats.inference_stats
    each = (told.compute_input, told.queue, told.compute_infer, told.compute_output)
    assert {part.count for part in each} == {told.success.count}
    assert sum(part.ns for part in each) == told.success.ns
    return [part.ns for part in each]


async def test_statistics_have_the_time_of_each_part(real):
    question = pb.ModelStatisticsRequest(name=LSTM)
    (before,) = (await real.ask("ModelStatistics", question)).model_stats
    count = before.inference_stats.success.count
    for n in range(20):
        await real.infer(LSTM, [0.0] * FEATURES, 991, start=n == 0, end=n == 19)
    (told,) = (await real.ask("ModelStatistics", question)).model_stats
    assert told.inference_stats.success.count == count + 20
    found = [after - first for after, first in zip(parts(told), parts(before), strict=True)]
    assert min(found) > 0


async def test_statistics_are_the_callers_own(models_dir):
    hashes = {n: hashlib.sha256(n.encode()).hexdigest() for n in ("one", "two")}
    with ServerProcess(models_dir, tokens=json.dumps(hashes)) as server:
        async with (
            TritonStubs(server.target, "one") as one,
            TritonStubs(server.target, "two") as two,
        ):
            for n in range(3):
                await one.infer(LSTM, [0.0] * FEATURES, 1, start=n == 0)
            await two.infer(LSTM, [0.0] * FEATURES, 1, start=True)
            await refused(two.infer(LSTM, [0.0] * FEATURES, 2))
            for stubs, steps, failed in ((one, 3, 0), (two, 1, 1)):
                question = pb.ModelStatisticsRequest(name=LSTM)
                (told,) = (await stubs.ask("ModelStatistics", question)).model_stats
                assert (told.inference_count, told.execution_count) == (steps, steps)
                assert told.inference_stats.success.count == steps
                assert told.inference_stats.fail.count == failed
                assert (told.last_inference > 0, min(parts(told)) > 0) == (True, True)


@pytest.mark.unlinked
async def test_the_index_lists_models_and_whether_they_are_ready(wire, fake):
    wire.engine.healthy = False
    index = await fake.ask("RepositoryIndex")
    assert [(m.name, m.state) for m in index.models] == [
        ("echo", "UNAVAILABLE"), ("echo-tokens", "READY"),
    ]  # fmt: skip
    ready = await fake.ask("RepositoryIndex", pb.RepositoryIndexRequest(ready=True))
    assert [m.name for m in ready.models] == ["echo-tokens"]


@pytest.mark.parametrize("method", NOT_OFFERED)
async def test_what_is_not_offered_says_why(fake, method):
    error = await refused(fake.raw(method)(b""))
    assert (error.reason, error.code) == ("METHOD_NOT_OFFERED", 12)
    assert error.message.startswith(f"{method} is not offered: {NOT_OFFERED[method]}")
    assert "(METHOD_NOT_OFFERED)" in error.message
