"""g2p_en 2.1.0, from its file of arrays and two maps, against its own equations in NumPy."""

from __future__ import annotations

import importlib
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support.server import ServerProcess

import carousel
from carousel_models import RecurrentModel, import_file, load

from .originals import original

pytestmark = pytest.mark.filterwarnings("ignore:invalid escape sequence")
"""The original was written for Python 2."""

ENCODER = """
embedding = "enc_emb"
ignore = ["dec_*", "fc_*"]

[[layer]]
cell = "gru"
weight_ih = "enc_w_ih"
weight_hh = "enc_w_hh"
bias_ih = "enc_b_ih"
bias_hh = "enc_b_hh"
"""

DECODER = """
embedding = "dec_emb"
ignore = ["enc_*"]

[[layer]]
cell = "gru"
weight_ih = "dec_w_ih"
weight_hh = "dec_w_hh"
bias_ih = "dec_b_ih"
bias_hh = "dec_b_hh"

[[head]]
weight = "fc_w"
bias = "fc_b"

[output]
eos = 3
"""

START, END, MOST = 2, 3, 20
"""Tokens that begin and end a pronunciation, and its most tokens."""

WORDS = 10_000


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
def halves(tmp_path: Path) -> tuple[RecurrentModel, RecurrentModel]:
    """Encoder and decoder, imported by the path of the file."""
    file = original("g2p_en/checkpoint20.npz")
    for name, text in (("encoder", ENCODER), ("decoder", DECODER)):
        (tmp_path / f"{name}.toml").write_text(text)
        import_file(file, name=name, dir=tmp_path, map=tmp_path / f"{name}.toml")
    return load(tmp_path / "encoder"), load(tmp_path / "decoder")


def words() -> list[str]:
    """Words that no dictionary has, of 1 to 14 letters, and a few of other characters."""
    rng = np.random.default_rng(0)
    letters = np.array(list("eeeaaiioouutnshrdlcmfgwypbvkxjqz"))
    made = {"".join(rng.choice(letters, rng.integers(1, 15))) for _ in range(WORDS + 2_000)}
    return [*sorted(made)[: WORDS - 3], "o'brien", "naïve", "x-ray"]


def test_parts_are_as_in_the_original(halves: tuple[RecurrentModel, RecurrentModel]) -> None:
    encoder, decoder = halves
    assert (encoder.vocabulary, decoder.vocabulary) == (29, 74)
    assert decoder.generative
    assert decoder.manifest.eos_tokens == (END,)
    assert encoder.state_specs == decoder.state_specs, "so a state can be handed over"


def test_each_half_follows_the_equations(
    halves: tuple[RecurrentModel, RecurrentModel], g2p: Any
) -> None:
    for model, name in zip(halves, ("enc", "dec"), strict=True):
        tokens = np.random.default_rng(1).integers(model.vocabulary, size=(3, 12))
        weights = [getattr(g2p, f"{name}_{part}") for part in ("w_ih", "w_hh", "b_ih", "b_hh")]
        expected = g2p.gru(np.take(getattr(g2p, f"{name}_emb"), tokens, axis=0), 12, *weights)
        if name == "dec":
            expected = expected @ g2p.fc_w.T + g2p.fc_b
        found, _ = model.sequence(torch.from_numpy(tokens), torch.full((3,), 12))
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_words_sound_as_in_the_original(
    halves: tuple[RecurrentModel, RecurrentModel], g2p: Any
) -> None:
    encoder, decoder = halves
    listed = words()
    for batch in by_length(listed):
        states = encoded(encoder, [tokens_of(g2p, word) for word in batch])
        found = spoken(decoder, states)
        for word, tokens in zip(batch, found, strict=True):
            assert [g2p.idx2p[token] for token in tokens] == g2p.predict(word), word


def test_a_server_hands_the_encoder_s_state_to_the_decoder(
    halves: tuple[RecurrentModel, RecurrentModel], tmp_path: Path, g2p: Any
) -> None:
    assert halves
    with ServerProcess(tmp_path) as server, carousel.Client(server.target) as client:
        for word in ["carousel", "eluinti", "x", "o'brien", *words()[::500]]:
            with client.session("encoder") as encoder:
                encoder.steps(tokens_of(g2p, word))
                state = encoder.state()
            with client.session("decoder", state=state) as decoder:
                drawn = [t.id for t in decoder.generate([START], max_tokens=MOST, temperature=0)]
            found = drawn[: drawn.index(END)] if END in drawn else drawn
            assert [g2p.idx2p[token] for token in found] == g2p.predict(word), word


def by_length(listed: list[str]) -> Iterator[list[str]]:
    groups: dict[int, list[str]] = defaultdict(list)
    for word in listed:
        groups[len(word)].append(word)
    yield from groups.values()


def tokens_of(g2p: Any, word: str) -> list[int]:
    unknown = g2p.g2idx["<unk>"]
    return [g2p.g2idx.get(letter, unknown) for letter in [*word, "</s>"]]


def encoded(encoder: RecurrentModel, tokens: list[list[int]]) -> tuple[torch.Tensor, ...]:
    x = torch.tensor(tokens)
    with torch.inference_mode():
        _, state = encoder.sequence(x, torch.full((len(x),), x.shape[1]))
    return state


def spoken(decoder: RecurrentModel, state: tuple[torch.Tensor, ...]) -> list[list[int]]:
    """The likeliest tokens, from a state that the encoder handed over."""
    x = torch.full((len(state[0]),), START)
    rows: list[list[int]] = [[] for _ in x]
    done = [False] * len(rows)
    with torch.inference_mode():
        for _ in range(MOST):
            raw, state = decoder.step(x, state)
            x = raw.argmax(dim=1)
            for number, token in enumerate(x.tolist()):
                done[number] = done[number] or token == END
                if not done[number]:
                    rows[number].append(token)
    return rows
