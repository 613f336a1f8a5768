"""What is not finite is found whatever the cell, the kernel and the chunk; others keep their bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import carousel_models
from carousel_models import Manifest, RecurrentModel
from carousel_models.creating import random_tensors
from carousel_models.kernels import choose
from carousel_models.loading import build
from carousel_models.spec import (
    FeaturesInput,
    LayerSpec,
    LinearHead,
    MlpHead,
    Normalization,
    Projection,
    TokensInput,
    uniform_stack,
)
from carousel_server.core.errors import CarouselError
from carousel_server.core.ports import Generate, Get, Infer, StepBlock
from carousel_server.core.types import GenerateSpec, SamplingSpec
from tests.parity.conftest import CELLS, KERNELS, MakePackage
from tests.unit.engine.fakes import RecordingSink, RecordingTokens, Rig

WIDTH = 5
TINY = Normalization(mean=(0.0,) * WIDTH, std=(1e-3,) * WIDTH)
SOURCE = FeaturesInput(width=WIDTH, normalization=TINY)
BAD = np.full(WIDTH, 1e36, np.float32)
HEADS = {"linear": LinearHead(width=3), "tanh": MlpHead(hidden=(6,), width=3, activation="tanh")}


def loaded(make_package: MakePackage, kernel: str, **fields: Any) -> RecurrentModel:
    return carousel_models.load(make_package(**fields), device="cpu", kernel=kernel)


def numbers(n: int, steps: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, steps, WIDTH)).astype(np.float32) * 1e-3


def serve(
    model: RecurrentModel, inputs: np.ndarray, **limits: Any
) -> tuple[RecordingSink, list[int]]:
    """What n sessions hear of their rows [n, steps, WIDTH], and how many steps of each count."""
    rig, sink = Rig(model, **({"slots": 16, "max_batch": 16} | limits)), RecordingSink()
    refs = [rig.session(sink, tag) for tag in range(len(inputs))]
    steps = inputs.shape[1]
    for tag, ref in enumerate(refs):
        rig.engine.submit(StepBlock(sink, [tag], [ref], [1], steps, inputs[tag].tobytes()))
    rig.settle()
    views: list[Any] = [rig.run(Get(ref)) for ref in refs]
    return sink, [view.applied for view in views]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("cell", CELLS)
def test_the_bad_step_of_a_chunk_is_refused(
    make_package: MakePackage, cell: Any, head: str, kernel: str
) -> None:
    stack = uniform_stack(cell, 2, 7)
    model = loaded(make_package, kernel, input=SOURCE, stack=stack, head=HEADS[head])
    clean = numbers(6, 8)
    dirty = clean.copy()
    dirty[2, 5] = dirty[4, 0] = BAD
    told, applied = serve(model, dirty)
    quiet, _ = serve(model, clean)
    assert applied == [8, 8, 5, 8, 0, 8]
    assert sorted((tag, seq, e.reason) for tag, seq, e in told.refusals) == [
        (2, 6, "STEP_NOT_FINITE"),
        (4, 1, "STEP_NOT_FINITE"),
    ]
    for tag in range(6):
        heard, alone = told.of(tag), quiet.of(tag)[: applied[tag]]
        if model.batch_invariant:
            assert heard == alone
        else:
            assert [seq for seq, _ in heard] == [seq for seq, _ in alone]
            for (_, found), (_, right) in zip(heard, alone, strict=True):
                np.testing.assert_allclose(found, right, rtol=1e-4, atol=1e-6)


def made(kernel: str, changed: dict[str, Any], **fields: Any) -> RecurrentModel:
    """A model with random weights but for those in `changed`."""
    manifest = Manifest(name="m", fingerprint="0" * 64, **fields)
    tensors = random_tensors(manifest, 0)
    for name, value in changed.items():
        tensors[name] = torch.as_tensor(value).expand_as(tensors[name]).contiguous()
    return build(manifest, tensors, kernel=choose(kernel, torch.device("cpu")))


@pytest.mark.parametrize("chunk_steps", [1, 3, 8])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    ("layer", "changed"),
    [
        (LayerSpec(cell="rnn_relu", hidden=6), {"weight_ih": 1.0, "weight_hh": -1.0}),
        (LayerSpec(cell="lstm", hidden=6, proj_size=4), {"weight_hr": 3e38}),
    ],
    ids=["relu", "projection"],
)
def test_an_infinity_that_the_next_layer_hides_is_found(
    layer: LayerSpec, changed: dict[str, float], kernel: str, chunk_steps: int
) -> None:
    """An infinite h of the first layer saturates the second one, whose outputs stay finite."""
    named = {f"stack.0.forward.{name}": value for name, value in changed.items()}
    named["stack.1.forward.weight_ih"] = 1.0
    stack = (layer, LayerSpec(cell="rnn_tanh", hidden=4))
    model = made(kernel, named, input=FeaturesInput(width=WIDTH), stack=stack)
    assert [model.state_specs[place].name for place in model.unseen_states] == ["0.h"]
    x = np.abs(numbers(1, 8)) * 1e-6
    x[0, 4] = 3e38 if layer.cell == "rnn_relu" else 3.0
    sink, [applied] = serve(model, x, chunk_steps=chunk_steps)
    state = model.initial_state(1)
    with torch.inference_mode():
        for row in torch.from_numpy(x[0, : applied + 1]):
            raw, state = model.step(row[None], state)
            assert torch.isfinite(raw).all()
    assert torch.isinf(state[0]).any()
    [(_, seq, error)] = sink.refusals
    assert seq == applied + 1
    assert "state '0.h' has an infinity" in error.message


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("cell", CELLS)
def test_whole_sequences_of_any_cell(make_package: MakePackage, cell: Any, kernel: str) -> None:
    stack = uniform_stack(cell, 2, 7)
    model = loaded(make_package, kernel, input=SOURCE, stack=stack, head=HEADS["linear"])
    x = numbers(1, 70)[0]
    bad = x.copy()
    bad[66] = BAD
    rig = Rig(model, slots=16, max_batch=16)
    calls = [Infer(rows.tobytes()) for rows in (x, bad)]
    for call in calls:
        rig.engine.submit(call)
    rig.settle()
    assert np.isfinite(calls[0].reply.result(0).view("<f4")).all()
    with pytest.raises(CarouselError, match="step 67 of the sequence") as caught:
        calls[1].reply.result(0)
    assert caught.value.reason == "STEP_NOT_FINITE"


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("cell", "proj_size"), [*((cell, 0) for cell in CELLS), ("lstm", 3)])
def test_only_the_unseen_states_can_be_spoilt_where_outputs_are_finite(
    make_package: MakePackage, cell: Any, dtype: Any, kernel: str, proj_size: int
) -> None:
    """What the check of outputs alone rests on: for many extreme rows, weights and layers."""
    layer = LayerSpec(cell=cell, hidden=6, proj_size=proj_size)
    width = layer.width
    rest = LayerSpec(cell=cell, hidden=6, proj_size=proj_size, layer_norm=True)
    head = HEADS["tanh"]
    source = FeaturesInput(width=WIDTH)
    model = loaded(make_package, kernel, input=source, stack=(layer, rest), head=head, dtype=dtype)
    assert rest.width == width
    generator = torch.Generator().manual_seed(3)
    seen = 0
    for _ in range(60):
        scale = 10.0 ** torch.randint(0, 40, (64, WIDTH), generator=generator)
        x = torch.randn(64, WIDTH, generator=generator) * scale  # 10³⁹ is infinite
        before = tuple(
            torch.randn(64, *s.shape, generator=generator)
            * 10.0 ** int(torch.randint(0, 38, (), generator=generator))
            for s in model.state_specs
        )
        with torch.inference_mode():
            raw, after = model.step(x, before)
        good = torch.isfinite(raw).all(1)
        seen += int((~good).sum())
        for place, tensor in enumerate(after):
            spoilt = ~torch.isfinite(tensor).flatten(1).all(1)
            if place not in model.unseen_states:
                assert not (spoilt & good).any(), model.state_specs[place].name
            assert not (torch.isnan(tensor).flatten(1).any(1) & good).any()
    assert seen


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("chunk_steps", [1, 4, 8])
def test_a_prompt_that_ends_in_nan_leaves_the_steps_before_it(
    kernel: str, chunk_steps: int
) -> None:
    """Prompts run in chunks whose outputs nobody computes: only the last step of each is seen."""
    table = torch.full((8, 4), 0.1)
    table[7] = torch.tensor([3e38, 3e38, -3e38, -3e38])
    model = made(
        kernel,
        {"embedding.weight": table, "projection.weight": 2 * torch.eye(4)},
        input=TokensInput(vocabulary=8, embedding=4, projection=Projection(width=4)),
        stack=uniform_stack("lstm", 2, 6),
        head=LinearHead(width=8),
    )
    rig = Rig(model, chunk_steps=chunk_steps, window_steps=16)
    ref, sink = rig.open(), RecordingTokens()
    prompt = np.asarray([1, 2, 3, 4, 5, 7, 1, 2, 3], np.int32)
    rig.engine.submit(Generate(ref, GenerateSpec(prompt, 3, SamplingSpec(temperature=0.0)), sink))
    rig.settle()
    view: Any = rig.run(Get(ref))
    assert sink.error is not None
    assert sink.error.message.startswith("step 6 does not count, because the output has NaN")
    assert view.applied == 5
