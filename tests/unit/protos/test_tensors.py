"""The row codec: what goes in comes out, and nothing is bent on the way."""

from __future__ import annotations

import numpy as np
import pytest

from carousel_protos.tensors import DATA_TYPES, WIRE_DTYPES, RowCodec
from carousel_protos.v1 import carousel_pb2 as pb

FLOATS = pb.TensorSpec(name="x", dtype=pb.DATA_TYPE_FLOAT32, shape=[3])
TOKEN = pb.TensorSpec(name="token", dtype=pb.DATA_TYPE_INT32)
TOP_K = [
    pb.TensorSpec(name="values", dtype=pb.DATA_TYPE_FLOAT32, shape=[2]),
    pb.TensorSpec(name="indices", dtype=pb.DATA_TYPE_INT32, shape=[2]),
]


def test_each_dtype_of_a_row_has_a_wire_type():
    assert {code: name for name, code in DATA_TYPES.items()} == WIRE_DTYPES


@pytest.mark.parametrize("leading", [(), (4,), (2, 4)])
def test_floats_come_back(leading):
    codec = RowCodec.of([FLOATS])
    rows = np.arange(np.prod((*leading, 3)), dtype="<f4").reshape(*leading, 3)
    data = codec.encode(rows)
    assert len(data) == codec.row_bytes * int(np.prod(leading))
    np.testing.assert_array_equal(codec.decode(data, *leading), rows)


def test_bytes_are_little_endian_and_row_major():
    rows = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], dtype=">f4", order="F")
    assert RowCodec.of([FLOATS]).encode(rows) == np.arange(1, 7, dtype="<f4").tobytes()


def test_tokens_are_scalars():
    codec = RowCodec.of([TOKEN])
    assert codec.row_bytes == 4
    assert codec.row_shape == ()
    np.testing.assert_array_equal(codec.decode(codec.encode([7, 8]), -1), [7, 8])


def test_several_fields_are_read_by_name():
    codec = RowCodec.of(TOP_K)
    assert codec.row_bytes == 16
    data = np.array([0.5, 0.25], "<f4").tobytes() + np.array([9, 4], "<i4").tobytes()
    rows = codec.decode(data * 3, 3)
    assert rows.shape == (3,)
    np.testing.assert_array_equal(rows["values"], [[0.5, 0.25]] * 3)
    np.testing.assert_array_equal(rows["indices"], [[9, 4]] * 3)
    assert codec.encode(rows) == data * 3


def test_float64_is_narrowed_and_integers_become_floats():
    codec = RowCodec.of([FLOATS])
    expected = np.array([1, 2, 3], "<f4").tobytes()
    assert codec.encode(np.array([1.0, 2.0, 3.0])) == expected
    assert codec.encode([1, 2, 3]) == expected


@pytest.mark.parametrize("rows", [[1.5], [2**31], [-(2**31) - 1], [True]])
def test_what_is_no_token_is_refused(rows):
    with pytest.raises(TypeError):
        RowCodec.of([TOKEN]).encode(rows)


def test_a_complex_number_is_no_float():
    with pytest.raises(TypeError, match="convert"):
        RowCodec.of([FLOATS]).encode(np.array([1j, 2j, 3j]))


def test_wrong_width_is_refused():
    with pytest.raises(ValueError, match="shape"):
        RowCodec.of([FLOATS]).encode(np.zeros((2, 4)))


@pytest.mark.parametrize("size", [1, 11, 13])
def test_a_torn_row_is_refused(size):
    with pytest.raises(ValueError, match="whole number"):
        RowCodec.of([FLOATS]).decode(b"\0" * size, -1)


def test_layouts_that_make_no_row_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        RowCodec.of([])
    with pytest.raises(ValueError, match="unknown element type"):
        RowCodec.of([pb.TensorSpec(name="x")])
