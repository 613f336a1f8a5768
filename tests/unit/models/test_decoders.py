"""Packages with an encoder and a decoder: what fits together, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from carousel_models import Decoder, PackageError, load, read_manifest, save
from carousel_models.decoder_spec import DecoderSpec
from carousel_models.spec import (
    FeaturesInput,
    LinearHead,
    Manifest,
    NoHead,
    Output,
    OverlapAdd,
    TokensInput,
    uniform_stack,
)
from carousel_models.tensors import expected_tensors

A, B = 5, 7
GRU = uniform_stack("gru", 1, 8)
SPEC: dict[str, Any] = {
    "input": TokensInput(vocabulary=B, embedding=3),
    "stack": GRU,
    "head": LinearHead(width=B),
    "start": 0,
    "stop": 1,
    "most": 9,
}
FIELDS: dict[str, Any] = {
    "name": "m",
    "fingerprint": "0" * 64,
    "input": TokensInput(vocabulary=A, embedding=4),
    "stack": GRU,
}


def manifest(decoder: dict[str, Any] | None = None, **fields: Any) -> Manifest:
    return Manifest(**FIELDS | fields, decoder=DecoderSpec(**SPEC | (decoder or {})))


def test_what_follows_from_the_stages() -> None:
    one = manifest(labels=tuple("abcdefg"))
    assert (one.vocabulary, one.input_tokens, one.output_width) == (A, A + B, B)
    assert one.generative
    assert one.causal
    assert one.eos_tokens == (1,)
    assert one.cell == "gru"
    assert Manifest.model_validate_json(one.model_dump_json()) == one
    names = set(expected_tensors(one))
    assert {"embedding.weight", "decoder.embedding.weight", "decoder.head.0.bias"} <= names
    assert expected_tensors(one)["decoder.stack.0.forward.weight_ih"].shape == (24, 3)


def test_a_package_without_a_decoder_is_written_as_before() -> None:
    plain = Manifest(**FIELDS)
    assert "decoder" not in json.loads(plain.model_dump_json())
    assert not plain.generative


@pytest.mark.parametrize(
    ("decoder", "fields", "message"),
    [
        ({"stack": uniform_stack("gru", 1, 9)}, {}, r"0\.h float32\[8\].*0\.h float32\[9\]"),
        ({"stack": uniform_stack("gru", 2, 8)}, {}, "same cells, layers and sizes"),
        ({"stack": uniform_stack("lstm", 1, 8)}, {}, r"0\.c"),
        ({}, {"stack": uniform_stack("gru", 1, 8, bidirectional=True)}, "forward only"),
        ({"head": LinearHead(width=6)}, {}, "7 tokens, but its rows are 6 wide"),
        ({"head": NoHead()}, {}, "7 tokens, but its rows are 8 wide"),
        ({}, {"head": LinearHead(width=3)}, "no head"),
        ({}, {"input": FeaturesInput(width=4)}, "an input of tokens"),
        ({}, {"output": Output(overlap_add=OverlapAdd(hop=2))}, "overlap_add"),
        ({}, {"eos": 1}, "eos are for a model without a decoder"),
        ({}, {"tokenizer": "bytes"}, "tokenizer"),
        ({}, {"labels": ("a",) * A}, "5 labels for 7 outputs"),
        ({}, {"input": TokensInput(vocabulary=1 << 20, embedding=4)}, "more than"),
    ],
)
def test_stages_that_do_not_fit(
    decoder: dict[str, Any], fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        manifest(decoder, **fields)


@pytest.mark.parametrize("field", ["start", "stop"])
@pytest.mark.parametrize("token", [-1, B])
def test_start_and_stop_are_tokens_of_the_decoder(field: str, token: int) -> None:
    with pytest.raises(ValidationError, match=field):
        manifest({field: token})


def modules(**decoder: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    its = {
        "embedding": nn.Embedding(B, 3),
        "stack": nn.GRU(3, 8),
        "head": nn.Linear(8, B),
        "start": 0,
        "stop": 1,
        "most": 9,
    }
    return {
        "embedding": nn.Embedding(A, 4),
        "stack": nn.GRU(4, 8),
        "decoder": Decoder(**its | decoder),
    }


@pytest.mark.parametrize(
    ("decoder", "message"),
    [
        ({"stack": nn.GRU(3, 9), "head": nn.Linear(9, B)}, r"float32\[9\]"),
        ({"stop": B}, "stop is 7"),
        ({"start": 1.5}, "integers"),
        ({"head": nn.Conv1d(8, B, 1)}, "head"),
        ({"embedding": nn.Embedding(B, 4)}, "decoder.stack.0"),
    ],
)
def test_modules_that_do_not_fit(decoder: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(PackageError, match=message):
        save(tmp_path / "m", **modules(**decoder))
    assert not (tmp_path / "m").exists()


def test_code_of_the_decoder_that_would_be_lost_is_refused(tmp_path: Path) -> None:
    class Louder(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    with pytest.raises(PackageError, match="Louder"):
        save(tmp_path / "m", **modules(head=Louder(8, B)))


def test_the_decoder_counts_in_the_fingerprint(tmp_path: Path) -> None:
    first = save(tmp_path / "first", **modules())
    assert save(tmp_path / "same", **modules()).fingerprint == first.fingerprint
    for number, other in enumerate(({"start": 2}, {"head": nn.Linear(8, B)})):
        assert save(tmp_path / str(number), **modules(**other)).fingerprint != first.fingerprint
    assert read_manifest(tmp_path / "first").decoder == first.decoder
    assert load(tmp_path / "first").parameters == sum(
        parameter.numel()
        for given in (
            modules()["embedding"],
            modules()["stack"],
            nn.Embedding(B, 3),
            nn.GRU(3, 8),
            nn.Linear(8, B),
        )
        for parameter in given.parameters()
    )


def test_a_reference_gets_tokens_of_both_stages(tmp_path: Path) -> None:
    """And its rows are compared."""
    given = modules()
    decoder = given["decoder"]

    def rows(x: torch.Tensor, factor: float = 1.0) -> torch.Tensor:
        found = torch.zeros(*x.shape, B)
        for sequence, tokens in enumerate(x.tolist()):
            h = None
            for step, token in enumerate(tokens):
                stage = decoder if token >= A else None
                embedding = stage.embedding if stage else given["embedding"]
                stack = stage.stack if stage else given["stack"]
                y, h = stack(embedding(torch.tensor([token - A * bool(stage)])), h)
                if stage:
                    found[sequence, step] = factor * stage.head(y)[0]
        return found

    save(tmp_path / "m", **given, reference=rows)
    with pytest.raises(PackageError, match="would not be the reference"):
        save(tmp_path / "other", **given, reference=lambda x: rows(x, 1.1))
