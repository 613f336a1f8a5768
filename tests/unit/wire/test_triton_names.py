"""Sequence ids as session ids: no two of one model share one, and all are fit for sessions."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from carousel_server.wire.fields import SEQUENCE_PREFIX, check_session_id
from carousel_server.wire.triton.parameters import session_id

SEQUENCE_IDS = st.one_of(st.integers(0, 2**64 - 1), st.text(min_size=1, max_size=128))


@given(SEQUENCE_IDS, st.text("abcXYZ019._-", min_size=1, max_size=64))
def test_every_sequence_id_makes_a_session_id(sequence_id, model):
    found = session_id(model, sequence_id)
    assert check_session_id(found) == found
    assert found.startswith(SEQUENCE_PREFIX)


@given(SEQUENCE_IDS, SEQUENCE_IDS)
def test_different_sequences_are_different_sessions(one, other):
    assert (session_id("m", one) == session_id("m", other)) == (one == other)


def test_numbers_texts_and_models_are_kept_apart():
    names = {session_id(model, s) for model in ("m", "m2") for s in (7, "7", "s:7", "h:7", "a b")}
    assert len(names) == 10


def test_plain_names_can_be_read():
    assert session_id("lstm", 7) == "triton:lstm:7"
    assert session_id("lstm", "room-4") == "triton:lstm:s:room-4"
