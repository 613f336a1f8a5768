"""The cache of original models."""

from __future__ import annotations

import re

from .originals import PINS, original, originals


def test_each_wheel_is_pinned_by_its_version_and_its_hash() -> None:
    lines = [line for line in PINS.read_text().splitlines() if not line.startswith("#")]
    assert lines == sorted(lines)
    for line in lines:
        assert re.fullmatch(r"[a-z0-9-]+==[0-9.]+ --hash=sha256:[0-9a-f]{64}", line), line


def test_files_are_unpacked_side_by_side() -> None:
    assert original("g2p_en/checkpoint20.npz").stat().st_size > 1_000_000
    assert original("silero_vad/data/silero_vad.onnx").stat().st_size > 1_000_000
    assert not list(originals().glob("*.whl"))
