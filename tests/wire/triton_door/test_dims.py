"""Tensors with a time axis of their own: [1, 1, F], where the package declares such dims."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import numpy as np
import pytest
import torch
from support.server import ServerProcess
from support.triton import TritonStubs
from support.wire import refused

from carousel_models import save
from carousel_models.spec import TritonNames, TritonTensor
from carousel_protos.triton import inference_pb2 as pb

X = np.random.default_rng(2).standard_normal((5, 4)).astype("<f4")


@pytest.fixture(scope="module")
def shaped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One model under two names: `flat` has rows, `deep` has a time axis."""
    folder = tmp_path_factory.mktemp("dims")
    torch.manual_seed(0)
    stack, head = torch.nn.LSTM(4, 8), torch.nn.Linear(8, 3)
    names = TritonNames(
        input=TritonTensor(name="x", datatype="FP32", dims=(1, 4)),
        outputs=(TritonTensor(name="y", datatype="FP32", dims=(1, 3)),),
    )
    save(folder / "flat", stack=stack, head=head)
    save(folder / "deep", stack=stack, head=head, triton=names)
    with ServerProcess(folder) as server:
        yield server


@pytest.fixture
async def stubs(shaped: ServerProcess) -> AsyncIterator[TritonStubs]:
    async with TritonStubs(shaped.target) as stubs:
        yield stubs


async def test_metadata_and_configuration_have_the_dims(stubs: TritonStubs) -> None:
    told = await stubs.ask("ModelMetadata", pb.ModelMetadataRequest(name="deep"))
    assert list(told.inputs[0].shape) == [-1, 1, 4]
    assert list(told.outputs[0].shape) == [-1, 1, 3]
    config = (await stubs.ask("ModelConfig", pb.ModelConfigRequest(name="deep"))).config
    assert (list(config.input[0].dims), list(config.output[0].dims)) == ([1, 4], [1, 3])


async def test_a_sequence_gives_the_numbers_of_flat_rows(stubs: TritonStubs) -> None:
    for n, row in enumerate(X):
        place = {"start": n == 0, "end": n == len(X) - 1}
        deep = (await stubs.infer("deep", row[None], 5, **place))["y"]
        flat = (await stubs.infer("flat", row, 5, **place))["y"]
        assert (deep.shape, flat.shape) == ((1, 1, 3), (1, 3))
        np.testing.assert_array_equal(deep[0], flat)


async def test_other_shapes_are_refused(stubs: TritonStubs) -> None:
    error = await refused(stubs.infer("deep", X[0], 6, start=True))
    assert error.reason == "INPUT_SHAPE"
    assert "Expected [-1,1,4], got [1,4] (INPUT_SHAPE)" in error.message
    error = await refused(stubs.infer("flat", X[:1], 6, start=True))
    assert "Expected [-1,4], got [1,1,4] (INPUT_SHAPE)" in error.message


async def test_errors_of_steps_name_the_reason_the_sequence_and_the_step(
    stubs: TritonStubs,
) -> None:
    await stubs.infer("flat", X[0], 7, start=True)
    error = await refused(stubs.infer("flat", X[0] * np.nan, 7))
    assert "(INPUT_NOT_FINITE, sequence 7, step 2)" in error.message
    error = await refused(stubs.infer("flat", X[0], 8))
    assert "(SEQUENCE_NOT_STARTED, sequence 8, step 1)" in error.message
