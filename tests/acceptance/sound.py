"""Seeded sound that is like speech: syllables of a voice with formants, pauses, and noise of a room."""

from __future__ import annotations

import numpy as np

RATE = 16000
"""Samples a second."""

_FORMANTS = (
    (730, 1090, 2440),
    (270, 2290, 3010),
    (300, 870, 2240),
    (530, 1840, 2480),
    (570, 840, 2410),
)
"""Resonances in Hz of five vowels (Peterson and Barney 1952, men)."""


def speech_like(seconds: float, seed: int) -> np.ndarray:
    """float32[seconds · RATE] in −1 … 1.

    A syllable is a sum of harmonics of a falling pitch, weighted by the resonances of a vowel, under a rise
    and a fall. After some syllables comes a pause.
    """
    random = np.random.default_rng(seed)
    total = round(seconds * RATE)
    sound = random.standard_normal(total).astype(np.float32) * 10 ** random.uniform(-4, -2.5)
    start = int(random.uniform(0.1, 1.0) * RATE)
    while start < total:
        for _ in range(random.integers(2, 8)):
            syllable = _syllable(random)
            end = min(start + len(syllable), total)
            sound[start:end] += syllable[: max(end - start, 0)]
            start += int(len(syllable) * random.uniform(0.8, 1.1))
        start += int(random.uniform(0.3, 1.5) * RATE)
    return np.clip(sound, -1, 1)


def _syllable(random: np.random.Generator) -> np.ndarray:
    length = int(random.uniform(0.12, 0.3) * RATE)
    time = np.arange(length) / RATE
    pitch = random.uniform(90, 220) * (1 - 0.2 * time / time[-1])
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    formants = _FORMANTS[random.integers(len(_FORMANTS))]
    voice = np.zeros(length)
    for harmonic in range(1, 30):
        frequency = harmonic * pitch.mean()
        gain = sum(1 / (1 + ((frequency - f) / (60 + f / 15)) ** 2) for f in formants)
        voice += gain / harmonic**0.5 * np.sin(harmonic * phase)
    envelope = np.sin(np.pi * time / time[-1]).clip(0) ** 0.5
    return (voice / np.abs(voice).max() * envelope * random.uniform(0.1, 0.6)).astype(np.float32)
