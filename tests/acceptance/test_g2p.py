"""g2p_en 2.1.0, from its file of arrays and a map, against its own equations in NumPy."""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support.server import ServerProcess

import carousel
from carousel_models import import_file, load

from .originals import original

pytestmark = pytest.mark.filterwarnings("ignore:invalid escape sequence")
"""The original was written for Python 2."""

MAP = """
embedding = "enc_emb"

[[layer]]
cell = "gru"
weight_ih = "enc_w_ih"
weight_hh = "enc_w_hh"
bias_ih = "enc_b_ih"
bias_hh = "enc_b_hh"

[decoder]
embedding = "dec_emb"
start = 2
stop = 3
most = 20

[[decoder.layer]]
cell = "gru"
weight_ih = "dec_w_ih"
weight_hh = "dec_w_hh"
bias_ih = "dec_b_ih"
bias_hh = "dec_b_hh"

[[decoder.head]]
weight = "fc_w"
bias = "fc_b"

[output]
labels = {labels}
"""
"""`labels` are the original's names of sounds."""

WORDS = 10_000
AT_ONCE = 500


@pytest.fixture
def g2p(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The original's class, with its network alone. Importing its package would download data."""
    for name, fields in STUBS.items():
        module = ModuleType(name)
        for field, value in fields.items():
            setattr(module, field, value)
        monkeypatch.setitem(sys.modules, name, module)
    package = ModuleType("g2p_en")
    package.__path__ = [str(original("g2p_en/g2p.py").parent)]
    monkeypatch.setitem(sys.modules, "g2p_en", package)
    module = importlib.import_module("g2p_en.g2p")
    module.__dict__["construct_homograph_dictionary"] = dict  # it leaves a file open
    made = module.G2p()
    made.variables.close()
    for name in ("g2p_en.g2p", "g2p_en.expand"):
        monkeypatch.delitem(sys.modules, name)
    return made


def nothing(*_: Any, **__: Any) -> Any:
    return SimpleNamespace(tokenize=None, dict=dict)


STUBS: dict[str, dict[str, Any]] = {
    "nltk": {"pos_tag": nothing, "data": SimpleNamespace(find=nothing), "download": None},
    "nltk.corpus": {"cmudict": SimpleNamespace(dict=dict)},
    "nltk.tokenize": {"TweetTokenizer": nothing},
    "inflect": {"engine": nothing},
}


@pytest.fixture
def package(tmp_path: Path, g2p: Any) -> Path:
    """The model, imported by the path of its file."""
    (tmp_path / "g2p.toml").write_text(MAP.format(labels=json.dumps(g2p.phonemes)))
    file = original("g2p_en/checkpoint20.npz")
    import_file(file, name="g2p", dir=tmp_path / "models", map=tmp_path / "g2p.toml")
    return tmp_path / "models" / "g2p"


def words() -> list[str]:
    """Words that no dictionary has, of 1 to 14 letters, and a few of other characters."""
    rng = np.random.default_rng(0)
    letters = np.array(list("eeeaaiioouutnshrdlcmfgwypbvkxjqz"))
    made = {"".join(rng.choice(letters, rng.integers(1, 15))) for _ in range(WORDS + 2_000)}
    return [*sorted(made)[: WORDS - 3], "o'brien", "naïve", "x-ray"]


def test_stages_are_as_in_the_original(package: Path) -> None:
    model = load(package)
    decoder = model.manifest.decoder
    assert decoder is not None
    assert (model.vocabulary, decoder.input.vocabulary, decoder.most) == (29, 74, 20)
    assert model.generative
    assert [model.manifest.labels[token] for token in (decoder.start, decoder.stop)] == [
        "<s>",
        "</s>",
    ]


def test_each_stage_follows_the_equations(package: Path, g2p: Any) -> None:
    model = load(package)
    rng = np.random.default_rng(1)
    letters, sounds = rng.integers(29, size=(3, 12)), rng.integers(74, size=(3, 12))
    h = None
    for name, tokens in (("enc", letters), ("dec", sounds)):
        weights = [getattr(g2p, f"{name}_{part}") for part in ("w_ih", "w_hh", "b_ih", "b_hh")]
        rows = np.take(getattr(g2p, f"{name}_emb"), tokens, axis=0)
        rows = g2p.gru(rows, 12, *weights, h0=h)
        h = rows[:, -1]
    x = torch.from_numpy(np.concatenate((letters, 29 + sounds), axis=1))
    found, _ = model.sequence(x, torch.full((3,), 24))
    assert not found[:, :12].any()
    expected = rows @ g2p.fc_w.T + g2p.fc_b
    np.testing.assert_allclose(found[:, 12:].numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_10_000_words_sound_as_in_the_original(package: Path, g2p: Any) -> None:
    """Through a server, with hundreds of sessions at once."""
    listed = words()
    assert len(set(listed)) == WORDS
    with ServerProcess(package.parent, slots=AT_ONCE) as server:
        found = asyncio.run(spoken(server.target, [tokens_of(g2p, word) for word in listed]))
    for word, sounds in zip(listed, found, strict=True):
        assert sounds == g2p.predict(word), word


async def spoken(target: str, prompts: list[list[int]]) -> list[list[str]]:
    """The sounds of each prompt."""
    async with carousel.AsyncClient(target) as client:
        info = await client.model("g2p")
        free = asyncio.Semaphore(AT_ONCE)

        async def one(prompt: list[int]) -> list[str]:
            async with free:
                drawn = client.generate("g2p", prompt, temperature=0)
                return info.label_names([token.id async for token in drawn])

        return await asyncio.gather(*map(one, prompts))


def tokens_of(g2p: Any, word: str) -> list[int]:
    unknown = g2p.g2idx["<unk>"]
    return [g2p.g2idx.get(letter, unknown) for letter in [*word, "</s>"]]
