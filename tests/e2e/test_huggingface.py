"""A model with a Hugging Face tokenizer, from save to served text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support.server import ServerProcess
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import carousel
import carousel_models
from tests.parity import reference

TEXT = "def größe(x):\n    return x  # süß, 漢字 and 🎠\n"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small byte-level BPE, trained here, on a GRU with random weights."""
    folder = tmp_path_factory.mktemp("huggingface")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([TEXT] * 4, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    size = tokenizer.get_vocab_size()
    carousel_models.save(
        folder / "models" / "bpe",
        embedding=torch.nn.Embedding(size, 16),
        stack=torch.nn.GRU(16, 32, batch_first=True),
        head=torch.nn.Linear(32, size),
        tokenizer=folder / "tokenizer.json",
    )
    return folder / "models" / "bpe"


def test_text_goes_in_and_comes_out(package: Path) -> None:
    encoded = Tokenizer.from_file(str(package / "tokenizer.json")).encode(TEXT).ids
    expected = reference.run(package, encoded)["y"]
    with (
        ServerProcess(package.parent) as server,
        carousel.Client(server.target) as client,
    ):
        assert client.model("bpe").tokenizer == "huggingface"
        greedy = list(client.generate("bpe", TEXT, max_tokens=1, temperature=0))
        assert greedy[0].id == int(expected[-1].argmax())
        tokens = list(client.generate("bpe", TEXT, max_tokens=40, temperature=2.0, seed=3))
    decoder = Tokenizer.from_file(str(package / "tokenizer.json"))
    whole = decoder.decode([token.id for token in tokens], skip_special_tokens=False)
    assert "".join(token.text for token in tokens) == whole
    manifest = json.loads((package / "manifest.json").read_text())
    assert manifest["tokenizer"] == "huggingface"
