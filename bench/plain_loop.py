"""The loop that people write around onnxruntime: one call a frame and stream, each stream's state in a list.

It is the yardstick of the figure `paced`. Streams send on time, and the loop takes the frames in order.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime

from carousel.cli.load.plan import Load, Result, Sample

Step = Callable[[int, np.ndarray], None]
"""Runs the next frame of one stream."""

ROWS = 64
HOPELESS = 20.0
"""A loop that is so many deadlines behind has failed, and need not be run to its end."""


def silero(file: Path, streams: int) -> Step:
    """Silero VAD: 512 new samples after the last 64, and a state of 2×128 numbers."""
    session = _session(file)
    rate = np.array(16000)
    states = [np.zeros((2, 1, 128), np.float32) for _ in range(streams)]
    contexts = [np.zeros(64, np.float32) for _ in range(streams)]

    def step(stream: int, samples: np.ndarray) -> None:
        row = np.concatenate((contexts[stream], samples))
        feed = {"input": row[None], "state": states[stream], "sr": rate}
        _, states[stream] = session.run(None, feed)
        contexts[stream] = row[-64:]

    return step


def dtln(folder: Path, streams: int) -> Step:
    """DTLN: the spectrum of 512 samples, a mask, back to samples, a second network, overlap-add."""
    first, second = _session(folder / "model_1.onnx"), _session(folder / "model_2.onnx")
    masks = [np.zeros((1, 2, 128, 2), np.float32) for _ in range(streams)]
    states = [np.zeros((1, 2, 128, 2), np.float32) for _ in range(streams)]
    blocks = [np.zeros(512, np.float32) for _ in range(streams)]
    outs = [np.zeros(512, np.float32) for _ in range(streams)]

    def step(stream: int, samples: np.ndarray) -> None:
        block = np.concatenate((blocks[stream][128:], samples))
        spectrum = np.fft.rfft(block)
        size = np.abs(spectrum).reshape(1, 1, -1).astype(np.float32)
        mask, masks[stream] = first.run(None, {"input_2": size, "input_3": masks[stream]})
        clean = np.fft.irfft(size * mask * np.exp(1j * np.angle(spectrum)))
        row = clean.reshape(1, 1, -1).astype(np.float32)
        frame, states[stream] = second.run(None, {"input_4": row, "input_5": states[stream]})
        out = np.concatenate((outs[stream][128:], np.zeros(128, np.float32)))
        outs[stream] = out + frame.reshape(-1)
        blocks[stream] = block

    return step


LOOPS: dict[str, Callable[[Path, int], Step]] = {"silero": silero, "dtln": dtln}
"""One entry for each model of the figure."""


def run(model: str, path: Path, load: Load, hop: int) -> Result:
    """Runs a load in this process."""
    assert load.rate_hz is not None
    step = LOOPS[model](path, load.streams)
    samples = np.random.default_rng(0).normal(0, 0.1, (ROWS, hop)).astype(np.float32)
    for _ in range(3):
        step(0, samples[0])
    sample, begin_s = Sample(), time.monotonic()
    first, last = load.messages(load.streams)
    hopeless_s = HOPELESS * (load.deadline_s or 1.0)
    for sent in range(last):
        due_s, now = begin_s + sent / load.rate_hz / load.streams, time.monotonic()
        if due_s > now:
            time.sleep(due_s - now)
        step(sent % load.streams, samples[sent % ROWS])
        latency_s = time.monotonic() - due_s
        if sent >= first:
            sample.due += 1
            sample.latencies_s.append(latency_s)
        if latency_s > hopeless_s:
            sample.errors["TOO_FAR_BEHIND"] += 1
            break
    return Result(load, sample)


def _session(file: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # faster for one small row
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
