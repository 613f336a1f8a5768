"""States on the wire: every type comes back as it was, and nothing is lost without an error."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
import torch

from carousel_models.states import StateType
from carousel_protos.states import STATE_TYPES, decode_state, encode_state
from carousel_protos.v1 import carousel_pb2 as pb

VALUES: dict[str, Any] = {
    "float16": np.array([[1.5, -0.0], [65504, 6e-8]], "<f2"),
    "float32": np.array([[1.5, -0.0], [3e38, 1e-45]], "<f4"),
    "float64": np.array([[1.5, -0.0], [1e308, 5e-324]], "<f8"),
    "bfloat16": np.array([[1.5, -0.0], [2.0**127, 2.0**-126]], "<f4"),
    "int32": np.array([[1, -2], [2**31 - 1, -(2**31)]], "<i4"),
    "int64": np.array([[1, -2], [2**63 - 1, -(2**63)]], "<i8"),
    "bool": np.array([[True, False], [False, True]]),
    "complex64": np.array([[1 + 2j, -3j], [0, 1e30]], "<c8"),
}


def spec(dtype: str, *shape: int) -> pb.TensorSpec:
    return pb.TensorSpec(name="h", dtype=STATE_TYPES[dtype].wire, shape=shape)


def test_there_is_an_entry_for_each_type_of_a_manifest_and_of_the_protocol() -> None:
    assert set(STATE_TYPES) == set(get_args(StateType)) == set(VALUES)
    numbers = {kind.wire for kind in STATE_TYPES.values()}
    of_rows_alone = {pb.DATA_TYPE_UNSPECIFIED, pb.DATA_TYPE_INT16}
    assert numbers == set(pb.DataType.values()) - of_rows_alone


@pytest.mark.parametrize("dtype", STATE_TYPES)
def test_every_type_comes_back(dtype: str) -> None:
    value = VALUES[dtype]
    tensor = encode_state(spec(dtype, 2, 2), value)
    found = decode_state(tensor)
    assert (found.dtype.str, found.shape) == (STATE_TYPES[dtype].shown, (2, 2))
    assert found.tobytes() == value.tobytes()
    assert len(tensor.data) == 4 * STATE_TYPES[dtype].item_bytes
    kind = getattr(torch, dtype)
    bits = torch.from_numpy(value).to(kind)
    bits = bits.view(torch.uint16) if kind is torch.bfloat16 else bits
    assert tensor.data == bits.numpy().tobytes()


def test_scalars_and_strides() -> None:
    assert decode_state(encode_state(spec("float32"), 2)).shape == ()
    turned = np.arange(6, dtype="<f4").reshape(2, 3).T
    assert decode_state(encode_state(spec("float32", 3, 2), turned)).tolist() == turned.tolist()


def test_bfloat16_is_rounded_as_torch_rounds_it() -> None:
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, 2**32, 100_000, np.uint32).view(np.float32)
    exact = (np.arange(2**16, dtype=np.uint32) << 16).view(np.float32)
    halfway = ((np.arange(2**16, dtype=np.uint32) << 16) | 0x8000).view(np.float32)
    values = np.concatenate([numbers, exact, halfway, np.float32([np.inf, -np.inf, 3.4e38])])
    values = values[~np.isnan(values)]
    tensor = encode_state(spec("bfloat16", len(values)), values)
    wanted = torch.from_numpy(values).to(torch.bfloat16)
    assert tensor.data == wanted.view(torch.uint16).numpy().tobytes()
    assert np.isnan(decode_state(encode_state(spec("bfloat16"), np.nan)))


@pytest.mark.parametrize(
    ("dtype", "value", "error"),
    [
        ("float32", [1.0, 2.0, 3.0], ValueError),
        ("float32", 1.0, ValueError),
        ("float32", [1j, 0], TypeError),
        ("float32", ["1", "2"], TypeError),
        ("int32", [0.5, 1], TypeError),
        ("int32", [1.0, 2.0], TypeError),
        ("int32", [2**31, 0], TypeError),
        ("bool", [2, 0], TypeError),
        ("int64", [None, 1], TypeError),
    ],
)
def test_what_would_lose_something(dtype: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        encode_state(spec(dtype, 2), np.asarray(value))


@pytest.mark.parametrize(
    ("dtype", "value"), [("float32", [1, 2]), ("complex64", [1.5, 2.5]), ("bool", [0, 1])]
)
def test_what_converts_without_harm(dtype: str, value: Any) -> None:
    assert decode_state(encode_state(spec(dtype, 2), value)).tolist() == value


def test_too_large_becomes_infinite_so_that_it_is_refused_as_such() -> None:
    assert np.isinf(decode_state(encode_state(spec("float16"), 1e6)))


def test_bytes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="has 7 bytes, not 8"):
        decode_state(pb.StateTensor(spec=spec("float32", 2), data=bytes(7)))
    unknown = pb.TensorSpec(name="h", dtype=99)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown element type 99"):
        decode_state(pb.StateTensor(spec=unknown))
