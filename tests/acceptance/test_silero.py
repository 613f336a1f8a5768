"""Silero VAD 6.2.3: its files unchanged in packages give the numbers of onnxruntime and torch.

`CAROUSEL_SOUND_S` is the sound in seconds for the server, of all sessions together. `make originals` plays an
hour.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from support.server import ServerProcess

import carousel
from carousel_models import RecurrentModel, import_file, load, save
from carousel_models.spec import CustomSpec, StateDeclaration

from .originals import original
from .sound import RATE, speech_like
from .vad_module import WEIGHTS, Vad

FRAME, CONTEXT = 512, 64
SESSIONS = 30
SOUND_S = float(os.environ.get("CAROUSEL_SOUND_S", "300"))
ROOT = Path(__file__).parents[2]


def frames(seconds: float, seed: int) -> np.ndarray:
    """float32[steps, FRAME] of sound that is like speech."""
    sound = speech_like(seconds, seed)
    return sound[: len(sound) // FRAME * FRAME].reshape(-1, FRAME)


def onnx_loop(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The plain loop of onnxruntime: probabilities [steps, 1], and the states after each step."""
    import onnxruntime

    session = onnxruntime.InferenceSession(
        str(original("silero_vad/data/silero_vad.onnx")), providers=["CPUExecutionProvider"]
    )
    joined = np.concatenate((np.zeros(CONTEXT, np.float32), rows.reshape(-1)))
    state, found, states = np.zeros((2, 1, 128), np.float32), [], []
    for window in sliding_window_view(joined, CONTEXT + FRAME)[::FRAME]:
        feed = {"input": window[None], "state": state, "sr": np.array(RATE)}
        row, state = session.run(None, feed)
        found.append(row[0])
        states.append(state[:, 0])
    return np.stack(found), np.stack(states)


def jit_loop(rows: np.ndarray) -> np.ndarray:
    """The JIT file's own loop, which keeps state and context inside."""
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore", DeprecationWarning)
        module = torch.jit.load(str(original("silero_vad/data/silero_vad.jit")))  # type: ignore[no-untyped-call]
        module.reset_states()
        return np.stack([module(torch.from_numpy(row)[None], RATE)[0].numpy() for row in rows])


def steps(model: RecurrentModel, rows: np.ndarray, batch: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """The same sound in each row of a batch, step after step: the last row's outputs and first state."""
    state, found, states = model.initial_state(batch), [], []
    with torch.inference_mode():
        for row in torch.from_numpy(rows):
            raw, state = model.step(row.expand(batch, -1), state)
            found.append(raw[-1].numpy().copy())
            states.append(state[0][-1].numpy().copy())
    return np.stack(found), np.stack(states)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ONNX step file as it is in the wheel."""
    folder = tmp_path_factory.mktemp("models")
    notes: list[str] = []
    import_file(
        original("silero_vad/data/silero_vad.onnx"),
        name="vad",
        dir=folder,
        check=True,
        note=notes.append,
        constant=["sr=16000"],
        context=CONTEXT,
        shape=["input=B,576"],
    )
    assert notes[-1] == "the package gives the original's rows"
    return folder / "vad"


def test_the_sound_has_speech_and_pauses() -> None:
    found, _ = onnx_loop(frames(20, seed=0))
    assert (found > 0.5).mean() > 0.2
    assert (found < 0.1).mean() > 0.2


def test_the_step_file_is_in_the_package_as_it_is(package: Path) -> None:
    file = original("silero_vad/data/silero_vad.onnx")
    assert (package / "silero_vad.onnx").read_bytes() == file.read_bytes()


def test_alone_all_bits_are_those_of_the_plain_loop(package: Path) -> None:
    rows = frames(20, seed=1)
    expected, expected_states = onnx_loop(rows)
    found, states = steps(load(package), rows)
    assert np.array_equal(found, expected)
    assert np.array_equal(states, expected_states)


@pytest.mark.parametrize("batch", [2, 3, 4, 8, 30])
def test_in_a_batch_numbers_are_those_of_the_plain_loop(package: Path, batch: int) -> None:
    """Onnxruntime promises no bits in a batch."""
    rows = frames(4, seed=2)
    expected, expected_states = onnx_loop(rows)
    found, states = steps(load(package), rows, batch)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(states, expected_states, rtol=0, atol=1e-5)


def test_the_weights_of_the_jit_file_as_a_custom_module(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        file = torch.jit.load(str(original("silero_vad/data/silero_vad.jit")))  # type: ignore[no-untyped-call]
    stored = dict(file._model.state_dict())
    assert set(WEIGHTS.values()) == set(stored)
    module = Vad()
    module.load_state_dict({name: stored[key] for name, key in WEIGHTS.items()})
    states = (("h", 128), ("c", 128), ("context", CONTEXT))
    spec = CustomSpec(
        module="tests.acceptance.vad_module:Vad",
        states=tuple(StateDeclaration(name=name, shape=(size,)) for name, size in states),
        width=1,
    )
    save(tmp_path / "vad", stack=module, custom=spec, features=FRAME)
    rows = frames(10, seed=3)
    found, _ = steps(load(tmp_path / "vad", allow_custom={spec.module}), rows)
    np.testing.assert_allclose(found, jit_loop(rows), rtol=0, atol=1e-5)
    np.testing.assert_allclose(found, onnx_loop(rows)[0], rtol=0, atol=1e-5)


def test_the_step_of_the_jit_file_as_a_program(tmp_path: Path) -> None:
    """Its inner module is a pure step, so one line saves it as a step graph."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.load(str(original("silero_vad/data/silero_vad.jit")))._model.save(  # type: ignore[no-untyped-call]
            str(tmp_path / "vad.ts")
        )
    shapes = ["x=B,576", "state=2,B,128"]
    import_file(tmp_path / "vad.ts", dir=tmp_path, check=True, shape=shapes, context=CONTEXT)
    rows = frames(10, seed=4)
    found, _ = steps(load(tmp_path / "vad"), rows)
    np.testing.assert_allclose(found, jit_loop(rows), rtol=0, atol=1e-6)


@pytest.mark.timeout(1800)
def test_sessions_behind_a_server_get_what_the_plain_loop_gives(package: Path) -> None:
    """30 sessions at once, each with its own sound, in steps and blocks that run in company."""
    sound = [frames(SOUND_S / SESSIONS, seed=100 + number) for number in range(SESSIONS)]
    expected = np.stack([onnx_loop(rows)[0] for rows in sound])
    inputs = np.stack(sound)
    with ServerProcess(package.parent) as server, carousel.Client(server.target) as client:
        sessions = [client.session("vad") for _ in range(SESSIONS)]
        found = np.concatenate(list(blocks(client, sessions, inputs)), axis=1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert (found > 0.5).any()


def blocks(client: Any, sessions: list[Any], inputs: np.ndarray) -> Any:
    """Outputs of all sessions: single steps together at first, then blocks of different lengths."""
    together = min(20, inputs.shape[1])
    batch = client.batch(sessions)
    for step in range(together):
        yield batch.step(inputs[:, step])[:, None]
    start, length = together, 1
    while start < inputs.shape[1]:
        part = inputs[:, start : start + length]
        yield batch.steps(part)
        start, length = start + length, length % 16 + 1
