"""A signal in chunks of any size: which rows it becomes, and how many samples come back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carousel import InputDtypeError, InputShapeError
from carousel._core.audio import Samples
from carousel._core.rows import ModelRows
from carousel_protos.v1 import carousel_pb2 as pb

HOP = 4


def model(dtype=pb.DATA_TYPE_INT16, output=False, delay=0, frames=True):
    return ModelRows(
        pb.Model(
            name="m",
            input=pb.TensorSpec(name="x", dtype=dtype, shape=[HOP]),
            outputs=[pb.TensorSpec(name="y", dtype=pb.DATA_TYPE_FLOAT32, shape=[HOP])],
            signal=pb.Signal(hop=HOP, rate=8000, output=output, delay=delay) if frames else None,
        )
    )


def rows_of(samples, chunks):
    rows = [samples.push(chunk) for chunk in chunks] + [samples.flush()]
    return np.concatenate(rows)


@given(st.integers(0, 40), st.data())
def test_the_cuts_between_chunks_make_no_difference(length, data):
    signal = np.arange(length, dtype=np.int16)
    cuts = sorted(data.draw(st.lists(st.integers(0, length), max_size=6)))
    expected = np.zeros((-(-length // HOP), HOP), np.int16)
    expected.reshape(-1)[:length] = signal
    found = rows_of(Samples(model()), np.split(signal, cuts))
    assert found.dtype == np.int16
    np.testing.assert_array_equal(found, expected)


@given(st.integers(0, 40), st.data())
def test_bytes_may_be_cut_within_a_sample(length, data):
    signal = np.arange(length, dtype="<i2")
    raw = signal.tobytes()
    cut = data.draw(st.integers(0, len(raw)))
    found = rows_of(Samples(model()), [raw[:cut], bytearray(raw[cut:])])
    np.testing.assert_array_equal(found.reshape(-1)[:length], signal)


@given(st.integers(0, 30), st.integers(0, 11))
def test_an_output_signal_has_the_delay_more_samples_than_came(length, delay):
    samples = Samples(model(output=True, delay=delay))
    rows = rows_of(samples, [np.ones(length, np.int16)])
    outputs = [samples.trimmed(np.full(HOP, n, np.float32)) for n in range(len(rows))]
    assert sum(map(len, outputs)) == (length + delay if length else 0)
    assert [len(output) for output in outputs[:-1]] == [HOP] * (len(outputs) - 1)


def test_rows_that_are_no_signal_are_not_trimmed():
    samples = Samples(model())
    rows_of(samples, [np.ones(1, np.int16)])
    assert len(samples.trimmed(np.ones(9, np.float32))) == 9


def test_floats_stand_for_int16_and_the_other_way_round():
    floats = np.array([-1.0, -0.5, 0.25, 1.0])
    found = rows_of(Samples(model()), [floats])
    np.testing.assert_array_equal(found[0], [-32768, -16384, 8192, 32767])
    whole = np.array([-32768, -16384, 8192, 32767], np.int16)
    back = rows_of(Samples(model(pb.DATA_TYPE_FLOAT32)), [whole])
    np.testing.assert_array_equal(back[0], (whole / 32768).astype(np.float32))
    same = rows_of(Samples(model(pb.DATA_TYPE_FLOAT32)), [floats, [0.5, 2.0, 3.0, 4.0]])
    np.testing.assert_array_equal(same, np.array([floats, [0.5, 2.0, 3.0, 4.0]], np.float32))


@pytest.mark.parametrize(
    ("chunk", "error", "fault"),
    [
        (np.array([0.0, 1.5]), InputDtypeError, "from -1 to 1"),
        (np.array([np.nan]), InputDtypeError, "from -1 to 1"),
        (np.zeros((2, 3), np.int16), InputShapeError, "one channel"),
        (np.int16(3), InputShapeError, "one channel"),
        (np.zeros(3, np.int32), InputDtypeError, "not int32"),
        (np.zeros(3, complex), InputDtypeError, "not complex128"),
        (np.ma.masked_array([1, 2], [True, False]), InputDtypeError, "masked"),
    ],
)
def test_what_is_no_signal_is_refused(chunk, error, fault):
    with pytest.raises(error, match=fault):
        Samples(model()).push(chunk)


def test_a_signal_must_not_end_within_a_sample():
    samples = Samples(model())
    samples.push(b"\x01\x02\x03")
    with pytest.raises(InputShapeError, match="1 bytes of 2 are left"):
        samples.flush()


def test_an_array_must_not_follow_half_a_sample():
    """Its samples would come before the rest of that one."""
    samples = Samples(model())
    samples.push(b"\x01")
    with pytest.raises(InputShapeError, match="an array follows 1 bytes of a sample"):
        samples.push(np.arange(4, dtype=np.int16))
    samples.push(b"\x00")
    assert samples.push(np.arange(3, dtype=np.int16)).tolist() == [[1, 0, 1, 2]]


def test_a_model_without_frames_is_refused():
    with pytest.raises(InputShapeError, match="does not take frames"):
        Samples(model(frames=False))
