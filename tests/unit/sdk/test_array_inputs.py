"""Arrays that would lose something on the way to the wire are refused by name, at both clients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import carousel
from carousel._core.array_inputs import array_of

from .support import opened, sums

MASKED = np.ma.masked_array([[1.0, 2.0], [3.0, 4.0]], mask=[[False, False], [True, False]])
PLAIN = torch.ones(2, 2)

TENSORS = {
    "bfloat16": PLAIN.bfloat16(),
    "requires_grad": PLAIN.clone().requires_grad_(),
    "complex": PLAIN.to(torch.complex64),
    "conjugate": PLAIN.to(torch.complex64).conj(),
    "meta": PLAIN.to("meta"),
}


@pytest.mark.parametrize("name", TENSORS)
def test_a_tensor_that_is_no_array_is_refused_by_name(client: Any, name: str) -> None:
    tensor = TENSORS[name]
    with client.session("sum") as session:
        for call in (
            lambda: session.steps(tensor),
            lambda: session.step(tensor[0]),
            lambda: list(session.stream([tensor[0], tensor[1]])),
            lambda: client.infer("sum", tensor),
            lambda: client.batch([session]).step(tensor[:1]),
            lambda: client.generate("letters", tensor[0]),
        ):
            with pytest.raises(carousel.InputDtypeError):
                call()
        assert session.step([1, 1])[0] == 2


def test_the_error_says_how_to_hand_a_tensor_over() -> None:
    with pytest.raises(carousel.InputDtypeError, match=r"torch\.Tensor .*BFloat16.*\.numpy\(\)"):
        array_of([TENSORS["bfloat16"]])


def test_a_sparse_tensor_is_refused_by_name() -> None:
    with pytest.raises(carousel.InputDtypeError, match="Sparse"):
        array_of(PLAIN.to_sparse())


def test_plain_tensors_are_rows(client: Any) -> None:
    with client.session("sum") as session:
        np.testing.assert_array_equal(session.steps(PLAIN), sums(PLAIN.numpy()))
        np.testing.assert_array_equal(next(iter(session.stream(list(PLAIN)))), [6, 1])


def test_masked_arrays_are_refused_by_name(client: Any) -> None:
    sessions = [opened(client.session("sum")) for _ in range(2)]
    session, batch = sessions[0], client.batch(sessions)
    for call in (
        lambda: session.steps(MASKED),
        lambda: session.steps(list(MASKED)),
        lambda: session.step(MASKED[1]),
        lambda: list(session.stream(MASKED)),
        lambda: client.infer("sum", MASKED),
        lambda: batch.step(MASKED),
        lambda: batch.steps([list(MASKED), list(MASKED)]),
        lambda: client.generate("letters", np.ma.masked_array([97, 98], mask=[0, 1])),
    ):
        with pytest.raises(carousel.InputDtypeError, match="masked"):
            call()
    assert session.applied == session.info().applied == 0
    np.testing.assert_array_equal(session.steps(MASKED.filled(0)), sums([[1, 2], [0, 4]]))


@pytest.mark.parametrize(
    ("kind", "scale"), [("int8", 128), ("uint8", 256), ("int16", 32768), ("uint16", 65536)]
)
def test_samples_are_refused_until_their_scale_is_said(client: Any, kind: str, scale: int) -> None:
    samples = np.array([[1, 2], [3, 4]], kind)
    sessions = [opened(client.session("sum")) for _ in range(2)]
    session, batch = sessions[0], client.batch(sessions)
    for call in (
        lambda: session.step(samples[0]),
        lambda: session.steps(samples),
        lambda: session.steps(list(samples)),
        lambda: list(session.stream(samples)),
        lambda: list(session.stream(samples, block_steps=2)),
        lambda: client.infer("sum", samples),
        lambda: batch.step(samples),
        lambda: batch.steps(samples[:, None]),
    ):
        with pytest.raises(carousel.InputDtypeError, match=f"{kind} rows .* / {scale};"):
            call()
    assert session.applied == session.info().applied == 0
    scaled = samples.astype(np.float32) / scale
    np.testing.assert_array_equal(session.steps(scaled), sums(scaled))


def test_samples_may_be_tokens(client: Any) -> None:
    with client.session("letters") as session:
        for kind in ("int8", "uint8", "int16", "uint16"):
            assert session.steps(np.array([97, 98], kind)).argmax(1).tolist() == [98, 99]


def test_what_a_foreign_array_raises_is_the_cause() -> None:
    class Foreign:
        def __array__(self, *_: object, **__: object) -> Any:
            raise LookupError("the buffer was freed")

    with pytest.raises(carousel.InputDtypeError, match=r"Foreign .*the buffer was freed"):
        array_of(Foreign())


def test_no_memory_is_not_the_callers_type() -> None:
    class Huge:
        def __array__(self, *_: object, **__: object) -> Any:
            raise MemoryError

    with pytest.raises(MemoryError):
        array_of(Huge())
