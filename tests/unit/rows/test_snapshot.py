"""Snapshots: what was written is read; what was changed is refused."""

from __future__ import annotations

import base64
import json
import struct
from contextlib import suppress
from dataclasses import fields, is_dataclass, replace
from hashlib import blake2b
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carousel_server.core.errors import CarouselError
from carousel_server.core.snapshot_header import fingerprint_of, initial_of, model_of
from carousel_server.core.store import HEAD_BYTES
from carousel_server.rows.snapshot import KeptGeneration, Snapshot, decode, encode

SNAPSHOT = Snapshot(
    model="m",
    fingerprint="f" * 64,
    epoch=3,
    applied=7,
    ack=5,
    seed=2**63 - 1,
    next_token=-1,
    idle_ttl_s=60.0,
    state={
        "0.h": np.arange(6, dtype="<f4").reshape(2, 3),
        "0.bits": np.asarray([65535], "<u2"),
        "0.count": np.asarray(2**60, "<i8"),
    },
    recent_tokens=(1, 2, 3),
    kept_inputs=np.arange(8, dtype=np.uint8).reshape(2, 4),
    kept_outputs=np.arange(16, dtype=np.uint8).reshape(2, 8),
)
DATA = encode(SNAPSHOT)

GENERATION = KeptGeneration(
    base=2,
    carry=-1,
    prompt_tokens=3,
    digest="0f" * 16,
    context=(4, 5),
    finish=1,
    ids=np.asarray([5, 6, 7], "<i4"),
    logprobs=np.asarray([-1.5, -0.5, -2.0], "<f4"),
    alternative_ids=np.asarray([[5], [1], [7]], "<i4"),
    alternative_logprobs=np.asarray([[-1.5], [-0.25], [-2.0]], "<f4"),
)
VERSION_2 = (
    "Q1JTTAIAzQEAAHsibW9kZWwiOiJtIiwiZmluZ2VycHJpbnQiOiJmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZm"
    "ZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmIiwiZXBvY2giOjMsImFwcGxpZWQiOjcsImFjayI6Nywic2Vl"
    "ZCI6OSwibmV4dF90b2tlbiI6NywiaWRsZV90dGxfcyI6NjAuMCwicmVjZW50X3Rva2VucyI6WzEsMiwzLDUsNl0sInRl"
    "bnNvcnMiOlt7Im5hbWUiOiIwLmgiLCJzaGFwZSI6WzJdLCJkdHlwZSI6IjxmNCJ9XSwiaW5wdXRfcm93X2J5dGVzIjo0"
    "LCJvdXRwdXRfcm93X2J5dGVzIjo4LCJhdHRhY2hfaWQiOjQsImV4ZWN1dGlvbl9jbGFzcyI6ImNwdSIsImdlbmVyYXRp"
    "b24iOnsiYmFzZSI6MiwiY2FycnkiOi0xLCJwcm9tcHRfdG9rZW5zIjozLCJkaWdlc3QiOiIwZjBmMGYwZjBmMGYwZjBm"
    "MGYwZjBmMGYwZjBmMGYwZiIsImZpbmlzaCI6MSwiZHJhd24iOjMsImFsdGVybmF0aXZlcyI6MX19AAAAPwAAgL8FAAAA"
    "BgAAAAcAAAAAAMC/AAAAvwAAAMAFAAAAAQAAAAcAAAAAAMC/AACAvgAAAMBEnPA/lEbnH+PEa8kBA3o7"
)
"""As version 2 wrote it: `GENERATION`, without its context."""
VERSION_3 = (
    "Q1JTTAMAQwIAAHsibW9kZWwiOiJtIiwiZmluZ2VycHJpbnQiOiJmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZm"
    "ZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmIiwiZXBvY2giOjMsImFwcGxpZWQiOjcsImFjayI6NSwic2Vl"
    "ZCI6OTIyMzM3MjAzNjg1NDc3NTgwNywibmV4dF90b2tlbiI6LTEsImlkbGVfdHRsX3MiOjYwLjAsInJlY2VudF90b2tl"
    "bnMiOlsxLDIsM10sInRlbnNvcnMiOlt7Im5hbWUiOiIwLmgiLCJzaGFwZSI6WzIsM10sImR0eXBlIjoiPGY0In0seyJu"
    "YW1lIjoiMC5iaXRzIiwic2hhcGUiOlsxXSwiZHR5cGUiOiI8dTIifSx7Im5hbWUiOiIwLmNvdW50Iiwic2hhcGUiOltd"
    "LCJkdHlwZSI6IjxpOCJ9XSwiaW5wdXRfcm93X2J5dGVzIjo0LCJvdXRwdXRfcm93X2J5dGVzIjo4LCJhdHRhY2hfaWQi"
    "OjAsImV4ZWN1dGlvbl9jbGFzcyI6IiIsImdlbmVyYXRpb24iOnsiYmFzZSI6MiwiY2FycnkiOi0xLCJwcm9tcHRfdG9r"
    "ZW5zIjozLCJkaWdlc3QiOiIwZjBmMGYwZjBmMGYwZjBmMGYwZjBmMGYwZjBmMGYwZiIsImNvbnRleHQiOls0LDVdLCJm"
    "aW5pc2giOjEsImRyYXduIjozLCJhbHRlcm5hdGl2ZXMiOjF9fQAAAAAAAIA/AAAAQAAAQEAAAIBAAACgQP//AAAAAAAA"
    "ABAAAQIDBAUGBwABAgMEBQYHCAkKCwwNDg8FAAAABgAAAAcAAAAAAMC/AAAAvwAAAMAFAAAAAQAAAAcAAAAAAMC/AACA"
    "vgAAAMBPxnWnLunNLd3+TbuJX1NX"
)
"""As version 3 wrote it: `SNAPSHOT` with `GENERATION`."""


def assert_same(a: Any, b: Any) -> None:
    """Every field is the same, also those of a generation and of arrays in a dictionary."""
    assert type(a) is type(b)
    for field in fields(b):
        one, other = getattr(a, field.name), getattr(b, field.name)
        if isinstance(other, dict):
            assert list(one) == list(other)
            one, other = list(one.values()), list(other.values())
        else:
            one, other = [one], [other]
        for found, wanted in zip(one, other, strict=True):
            if is_dataclass(wanted):
                assert_same(found, wanted)
            elif isinstance(wanted, np.ndarray):
                assert found.dtype == wanted.dtype, field.name
                np.testing.assert_array_equal(found, wanted, field.name)
            else:
                assert found == wanted, field.name


def refusal(data: bytes) -> CarouselError:
    with pytest.raises(CarouselError) as caught:
        decode(data)
    assert caught.value.reason == "SNAPSHOT_INVALID"
    return caught.value


def signed(body: bytes) -> bytes:
    return body + blake2b(body, digest_size=16).digest()


def test_what_was_written_is_read() -> None:
    assert_same(decode(DATA), SNAPSHOT)


def test_a_generation_is_read_as_it_was_written() -> None:
    read = decode(encode(replace(SNAPSHOT, generation=GENERATION)))
    assert_same(read.generation, GENERATION)


OTHER: dict[str, Any] = {
    "model": "n",
    "fingerprint": "e" * 64,
    "epoch": 4,
    "applied": 8,
    "ack": 4,
    "seed": 1,
    "next_token": 9,
    "idle_ttl_s": 61.5,
    "state": {"0.h": np.zeros((2, 3), "<f4")},
    "recent_tokens": (),
    "kept_inputs": np.ones((2, 4), np.uint8),
    "kept_outputs": np.ones((2, 8), np.uint8),
    "attach_id": 2**63,
    "execution_class": "cpu float32",
    "initial": "anna",
    "resets": (6,),
    "generation": GENERATION,
}
OTHER_GENERATION: dict[str, Any] = {
    "base": 3,
    "carry": 8,
    "prompt_tokens": 4,
    "digest": "1e" * 16,
    "context": (),
    "finish": 2,
    "ids": np.asarray([1, 2, 3], "<i4"),
    "logprobs": np.asarray([0, -1, -2], "<f4"),
    "alternative_ids": np.asarray([[9], [8], [7]], "<i4"),
    "alternative_logprobs": np.asarray([[0], [-1], [-3]], "<f4"),
}
_ROWS = {"applied": 1, "ack": 1}
"""Cursors that keep so many more rows than `SNAPSHOT` where they are changed."""


def test_every_field_is_varied_below() -> None:
    assert set(OTHER) == {field.name for field in fields(Snapshot)}
    assert set(OTHER_GENERATION) == {field.name for field in fields(KeptGeneration)}


@pytest.mark.parametrize("name", OTHER)
def test_every_field_of_a_snapshot_is_written_and_read(name: str) -> None:
    changed = replace(SNAPSHOT, **{name: OTHER[name]})
    more = _ROWS.get(name, 0)
    kept = {
        part: np.ones((2 + more, w), np.uint8)
        for part, w in (("kept_inputs", 4), ("kept_outputs", 8))
    }
    changed = replace(changed, **kept) if more else changed
    assert encode(changed) != DATA
    assert_same(decode(encode(changed)), changed)


@pytest.mark.parametrize("name", OTHER_GENERATION)
def test_every_field_of_a_generation_is_written_and_read(name: str) -> None:
    changed = replace(SNAPSHOT, generation=replace(GENERATION, **{name: OTHER_GENERATION[name]}))
    assert encode(changed) != encode(replace(SNAPSHOT, generation=GENERATION))
    assert_same(decode(encode(changed)), changed)


def test_the_bytes_of_a_snapshot_stay_what_they_are() -> None:
    """A newer server must write what an older one reads."""
    whole = encode(replace(SNAPSHOT, generation=GENERATION))
    assert (len(DATA), len(whole)) == (555, 736)
    assert DATA[-16:].hex() == "46ae6285fe2216338a4d59d1388a2ad2"
    assert whole[-16:].hex() == "4507389baf8ec59717212b6fd079ca99"


def test_version_2_is_read() -> None:
    read = decode(base64.b64decode(VERSION_2))
    assert (read.applied, read.next_token, read.attach_id) == (7, 7, 4)
    assert read.recent_tokens == (1, 2, 3, 5, 6)
    assert read.state["0.h"].tolist() == [0.5, -1.0]
    assert_same(read.generation, replace(GENERATION, context=()))
    assert_same(decode(encode(read)).generation, replace(GENERATION, context=()))


def test_version_3_is_read() -> None:
    read = decode(base64.b64decode(VERSION_3))
    assert_same(read, replace(SNAPSHOT, generation=GENERATION))
    assert (read.resets, read.initial) == ((), "")


@pytest.mark.parametrize("resets", [(5,), (8,), (7, 6), (6, 6), (-1,), (6, 7, 8)])
def test_resets_of_steps_that_are_not_kept_are_refused(resets: tuple[int, ...]) -> None:
    assert "resets" in refusal(encode(replace(SNAPSHOT, resets=resets))).message


@pytest.mark.parametrize("name", ["lstm", 'a "quoted\\" name', "ü" * 256])
def test_the_head_of_a_snapshot_names_its_model_and_weights(name: str) -> None:
    written = encode(replace(SNAPSHOT, model=name))
    assert fingerprint_of(written[:HEAD_BYTES]) == SNAPSHOT.fingerprint
    assert model_of(written[:HEAD_BYTES]) == name
    assert initial_of(written[:HEAD_BYTES]) == ""
    named = encode(replace(SNAPSHOT, model=name, initial="anna.2"))[:HEAD_BYTES]
    assert (model_of(named), initial_of(named)) == (name, "anna.2")
    assert fingerprint_of(base64.b64decode(VERSION_2)[:HEAD_BYTES])
    assert initial_of(base64.b64decode(VERSION_2)[:HEAD_BYTES]) == ""
    no_escape = written[:10] + b'{"model":"\\q","fingerprint":"f"}'
    no_text = written[:10] + b'{"model":"\xff","fingerprint":"f"}'
    wrong = (b"", b"CRSL", written[:20], b"CRSX" + written[4:HEAD_BYTES], no_escape, no_text)
    for head in wrong:
        assert (model_of(head), fingerprint_of(head)) == ("", "")


def test_a_generation_of_another_version_than_it_says_is_refused() -> None:
    new = encode(replace(SNAPSHOT, generation=GENERATION))
    for data, version in ((base64.b64decode(VERSION_2), 3), (new, 2), (new, 3)):
        body = data[:4] + struct.pack("<H", version) + data[6:-16]
        assert f"version {version}" in refusal(signed(body)).message


def test_a_fresh_session_keeps_nothing() -> None:
    empty = replace(
        SNAPSHOT,
        applied=0,
        ack=0,
        recent_tokens=(),
        kept_inputs=np.empty((0, 4), np.uint8),
        kept_outputs=np.empty((0, 8), np.uint8),
    )
    assert_same(decode(encode(empty)), empty)


@given(st.integers(0, len(DATA) - 1), st.integers(1, 255))
def test_any_changed_byte_is_noticed(place: int, change: int) -> None:
    damaged = bytearray(DATA)
    damaged[place] ^= change
    refusal(bytes(damaged))


@given(st.integers(0, len(DATA) - 1))
def test_any_cut_is_noticed(length: int) -> None:
    refusal(DATA[:length])


@settings(max_examples=50)
@given(st.binary(max_size=200))
def test_any_other_bytes_are_refused(data: bytes) -> None:
    refusal(data)
    refusal(b"CRSL" + data)


def test_an_unknown_version_is_named() -> None:
    for version in (0, 1, 5):
        body = b"CRSL" + struct.pack("<H", version) + DATA[6:-16]
        assert f"version {version}" in refusal(signed(body)).message


_NUMBERS = st.integers(-(2**70), 2**70) | st.sampled_from([0, 1, 2**31, 2**32, 2**62, 2**63])
_VALUES = _NUMBERS | st.text(max_size=3) | st.lists(_NUMBERS, max_size=3) | st.none()


@settings(max_examples=300)
@given(st.data())
def test_any_well_signed_header_is_read_or_refused(data: st.DataObject) -> None:
    """The checksum has no key: whoever can import can sign."""
    header_bytes = struct.unpack_from("<I", DATA, 6)[0]
    header = json.loads(DATA[10 : 10 + header_bytes])
    parts = [header, *header["tensors"]]
    for _ in range(data.draw(st.integers(1, 3))):
        part = data.draw(st.sampled_from(parts))
        part[data.draw(st.sampled_from(sorted(part)))] = data.draw(_VALUES)
    text = json.dumps(header).encode()
    body = DATA[:6] + struct.pack("<I", len(text)) + text + DATA[10 + header_bytes : -16]
    with suppress(CarouselError):
        decode(signed(body))


def test_a_well_signed_lie_is_refused() -> None:
    header_bytes = struct.unpack_from("<I", DATA, 6)[0]
    start, end = 10, 10 + header_bytes
    for old, new in (
        (b'"applied":7', b'"applied":9'),
        (b'"applied":7', b'"applied":1'),
        (b'"shape":[2,3]', b'"shape":[2,9]'),
        (b'"dtype":"<f4"', b'"dtype":"|O8"'),
        (b'"epoch":3', b'"epoch":x'),
        (b'"epoch":3', b'"other":3'),
    ):
        header = DATA[start:end].replace(old, new)
        assert header != DATA[start:end]
        refusal(signed(DATA[:6] + struct.pack("<I", len(header)) + header + DATA[end:-16]))
    refusal(signed(DATA[:6] + struct.pack("<I", 2**31) + DATA[10:-16]))
