"""A model and its metrics, without an engine."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from prometheus_client.parser import text_string_to_metric_families

from carousel_server.core.types import ModelView, TensorField
from carousel_server.metrics import Metrics

Read = Callable[..., float | None]


@pytest.fixture
def model() -> ModelView:
    row = TensorField("x", "<f4", (8,))
    return ModelView(
        name="m",
        fingerprint="ab" * 32,
        description="",
        cell="lstm",
        layers=2,
        hidden=32,
        input=row,
        outputs=(row,),
        causal=True,
        vocabulary=0,
        generative=False,
        tokenizer="",
        labels=(),
        parameters=1000,
        state_bytes=512,
        compute_dtype="float32",
        window_steps=128,
        max_sequence_steps=1024,
    )


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(build={"version": "1.2.3", "torch": "2.13.0", "device": "cpu"})


@pytest.fixture
def read(metrics: Metrics) -> Read:
    """The value that a scrape would get, or None if there is no such series."""

    def value(sample_name: str, **labels: str) -> float | None:
        for family in text_string_to_metric_families(metrics.expose()):
            for sample in family.samples:
                if sample.name == sample_name and labels.items() <= sample.labels.items():
                    return sample.value
        return None

    return value
