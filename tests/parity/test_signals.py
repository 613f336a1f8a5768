"""Frames of a signal and overlapping frames equal the textbook's loops over the whole signal, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from carousel_models import Manifest, PackageError, load, save
from carousel_models.model import RecurrentModel
from carousel_models.spec import FramesInput, OverlapAdd, SelectArgmax
from carousel_models.spectra import WINDOWS

HOPS = 11


def framed(signal: np.ndarray, hop: int, context: int) -> np.ndarray:
    """Frames [T, context + hop] of a signal with zeros before it."""
    padded = np.concatenate((np.zeros(context), signal))
    steps = len(signal) // hop
    return np.stack([padded[t * hop : t * hop + context + hop] for t in range(steps)])


def overlapped(frames: np.ndarray, hop: int, window: np.ndarray) -> np.ndarray:
    """The complete samples [T · hop] of overlapping frames [T, width]."""
    steps, width = frames.shape
    whole = np.zeros((steps - 1) * hop + width)
    for t, frame in enumerate(frames):
        whole[t * hop : t * hop + width] += frame * window
    return whole[: steps * hop]


def gru64(module: nn.GRU, x: np.ndarray) -> np.ndarray:
    """The module's outputs in float64."""
    with torch.no_grad():
        rows, _ = module.double()(torch.from_numpy(x)[None])
    module.float()
    result: np.ndarray = rows[0].numpy()
    return result


def served(path: Any, hop: int, context: int, **options: Any) -> tuple[RecurrentModel, nn.GRU]:
    torch.manual_seed(hop)
    module = nn.GRU(context + hop, 12, batch_first=True)
    overlap = options.pop("overlap_add", None)
    frames = FramesInput(hop=hop, context=context, rate=8000, **options)
    save(path, stack=module, frames=frames, overlap_add=overlap)
    return load(path), module


def streamed(model: RecurrentModel, x: torch.Tensor) -> np.ndarray:
    state, rows = model.initial_state(1), []
    for row in x:
        raw, state = model.step(row[None], state)
        rows.append(raw[0])
    return torch.stack(rows).numpy()


@pytest.mark.parametrize(("hop", "context"), [(4, 0), (4, 3), (2, 7), (1, 5), (5, 5)])
@pytest.mark.parametrize("encoding", ["pcm16", "float32"])
def test_a_context_is_the_samples_before_a_frame(tmp_path, hop, context, encoding):
    model, module = served(tmp_path / "m", hop, context, encoding=encoding)
    signal = np.random.default_rng(1).integers(-20000, 20000, HOPS * hop).astype(np.int16)
    real = signal / 2.0**15
    sent = signal if encoding == "pcm16" else real.astype(np.float32)
    x = torch.from_numpy(sent).reshape(HOPS, hop)
    expected = gru64(module, framed(real, hop, context))
    np.testing.assert_allclose(streamed(model, x), expected, atol=2e-6)
    whole, _ = model.sequence(torch.stack([x, x.flip(0)]), torch.tensor([HOPS, HOPS - 4]))
    np.testing.assert_allclose(whole[0].numpy(), expected, atol=2e-6)


def test_a_reference_takes_the_samples_that_clients_send(tmp_path):
    module = nn.GRU(4, 3, batch_first=True)
    frames = FramesInput(hop=4, rate=8000)

    def reference(x: torch.Tensor) -> torch.Tensor:
        assert x.dtype == torch.int16
        rows: torch.Tensor = module(x / 2.0**15)[0]
        return rows

    save(tmp_path / "m", stack=module, frames=frames, reference=reference)
    assert load(tmp_path / "m").manifest.input == frames
    with pytest.raises(PackageError, match="step"):
        save(tmp_path / "no", stack=module, frames=frames, reference=lambda x: module(x.float())[0])
    x = np.random.default_rng(5).integers(-9000, 9000, (20, 4))
    with torch.no_grad():
        rows, _ = module(torch.from_numpy(x / 2.0**15).float()[None])
    save(tmp_path / "pair", stack=module, frames=frames, reference=(x, rows[0].numpy()))
    with pytest.raises(PackageError, match="no samples of int16"):
        save(tmp_path / "no", stack=module, frames=frames, reference=(x + 0.5, rows[0].numpy()))


@pytest.mark.parametrize("hop", [1, 3, 4, 11])
@pytest.mark.parametrize("window", sorted(WINDOWS))
def test_frames_that_overlap_are_added(tmp_path, hop, window):
    added = OverlapAdd(hop=hop, window=window)
    model, module = served(tmp_path / "m", 4, 3, overlap_add=added)
    signal = np.random.default_rng(2).integers(-9000, 9000, HOPS * 4).astype(np.int16)
    x = torch.from_numpy(signal).reshape(HOPS, 4)
    frames = gru64(module, framed(signal / 2.0**15, 4, 3))
    expected = overlapped(frames, hop, WINDOWS[window](12).double().numpy()).reshape(HOPS, hop)
    np.testing.assert_allclose(streamed(model, x), expected, atol=1e-5)
    raw, state = model.sequence(x[None], torch.tensor([HOPS]))
    np.testing.assert_allclose(raw[0].numpy(), expected, atol=1e-5)
    # Chunks of a signal continue in the state that the chunk before has left.
    first, state = model.sequence(x[None, :5], torch.tensor([5]))
    second, _ = model.sequence(x[None, 5:], torch.tensor([HOPS - 5]), state)
    assert torch.equal(torch.cat((first, second), 1), raw)


def test_only_wanted_rows_leave_but_every_frame_is_added(tmp_path):
    model, _ = served(tmp_path / "m", 4, 0, overlap_add=OverlapAdd(hop=4))
    x = torch.randint(-9000, 9000, (6, 4), dtype=torch.int16)
    every, _ = model.packed(x, [2, 2, 2], model.initial_state(2))
    wanted = torch.tensor([4, 1])
    some, _ = model.packed(x, [2, 2, 2], model.initial_state(2), wanted)
    assert torch.equal(some, every[wanted])


def test_rows_of_the_slab_are_read_by_their_slots(tmp_path):
    model, _ = served(tmp_path / "m", 4, 3, overlap_add=OverlapAdd(hop=4))
    x = torch.randint(-9000, 9000, (5, 4), dtype=torch.int16)
    state = tuple(torch.randn(9, *spec.shape) for spec in model.state_specs)
    slots = torch.tensor([7, 0, 3, 8, 1])
    by_slot, after = model.step(x, state, slots)
    direct, expected = model.step(x, tuple(tensor[slots] for tensor in state))
    assert torch.equal(by_slot, direct)
    for found, wanted in zip(after, expected, strict=True):
        assert torch.equal(found, wanted)


def test_states_are_named_and_the_overlap_is_checked_for_infinity(tmp_path):
    model, _ = served(tmp_path / "m", 4, 3, overlap_add=OverlapAdd(hop=4))
    specs = {spec.name: spec.shape for spec in model.state_specs}
    assert specs == {"0.h": (12,), "input.context": (3,), "output.overlap": (8,)}
    assert [model.state_specs[place].name for place in model.unseen_states] == ["output.overlap"]
    assert model.manifest.states[-1].name == "output.overlap"
    assert model.state_bytes == 4 * (12 + 3 + 8)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"overlap_add": OverlapAdd(hop=12)}, "a frame has only 12"),
        ({"overlap_add": OverlapAdd(hop=4), "transform": "softmax"}, "leave out transform"),
        ({"overlap_add": OverlapAdd(hop=4), "select": SelectArgmax()}, "leave out transform"),
        ({"frames": FramesInput(hop=5, context=3, rate=8000)}, "takes rows of 7 numbers"),
        ({"normalization": ([0.0] * 7, [1.0] * 7)}, "leave out embedding and normalization"),
    ],
)
def test_contradictions_are_refused(tmp_path, options, fault):
    module = nn.GRU(7, 12, batch_first=True)
    options = {"frames": FramesInput(hop=4, context=3, rate=8000)} | options
    with pytest.raises(PackageError, match=fault):
        save(tmp_path / "m", stack=module, **options)
    assert not (tmp_path / "m").exists()


def test_a_bidirectional_model_takes_frames_without_a_context(tmp_path):
    module = nn.LSTM(4, 3, batch_first=True, bidirectional=True)
    with pytest.raises(PackageError, match="no state for a context"):
        save(tmp_path / "no", stack=module, frames=FramesInput(hop=1, context=3, rate=8000))
    manifest = save(tmp_path / "yes", stack=module, frames=FramesInput(hop=4, rate=8000))
    assert manifest.signal_states == ()


@pytest.mark.parametrize("scale", [0.0, -1.0, 1e-39, 1e39, float("nan")])
def test_a_scale_must_be_a_number_of_float32(scale):
    with pytest.raises(ValueError, match="scale"):
        FramesInput(hop=4, rate=8000, scale=scale)


def test_older_manifests_are_written_as_before():
    """New fields stand in a manifest only where they are used, so that fingerprints stay."""
    source = FramesInput(hop=4, rate=8000)
    assert "scale" not in source.model_dump()
    assert FramesInput(hop=4, rate=8000, scale=0.5).model_dump()["scale"] == 0.5
    fields = (
        Manifest.model_fields["output"].default_factory or Manifest.model_fields["output"].default
    )
    assert "overlap_add" not in (fields() if callable(fields) else fields).model_dump()
