"""The public face, and what an import of it brings in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import carousel
import carousel.exceptions
import carousel.testing

PROGRAM = """
import sys
import carousel, carousel.testing
carousel.Client, carousel.AsyncClient
heavy = {"torch", "carousel_server", "carousel_models", "pydantic"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else 0)
"""

FACE = {
    "TLS", "Alternative", "AsyncBatch", "AsyncClient", "AsyncGeneration", "AsyncSession", "Batch",
    "Client", "ClientStatistics", "Durability", "FinishReason", "GenerateOptions", "Generation", "Health",
    "DecoderInfo", "ModelInfo", "Phase", "RetryPolicy", "Session", "SessionInfo", "SignalInfo", "TensorInfo",
    "Token", "Usage",
    "__version__",
}  # fmt: skip


def test_the_face_is_what_it_was() -> None:
    assert set(carousel.__all__) == FACE | set(carousel.exceptions.__all__)
    assert set(dir(carousel)) >= set(carousel.__all__)
    assert carousel.testing.__all__ == ["FakeModel", "FakeServer"]


@pytest.mark.parametrize("name", carousel.__all__)
def test_every_name_is_there_and_explained(name: str) -> None:
    found = getattr(carousel, name)
    assert found.__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        _ = carousel.nothing


def test_the_import_brings_no_server_and_no_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_it_is_typed() -> None:
    assert (Path(carousel.__file__).parent / "py.typed").exists()


def test_both_clients_have_the_same_methods() -> None:
    def public(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    assert public(carousel.Client) == public(carousel.AsyncClient)
    assert public(carousel.Session) == public(carousel.AsyncSession)
    assert public(carousel.Batch) == public(carousel.AsyncBatch)
