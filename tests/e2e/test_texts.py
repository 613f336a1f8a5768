"""Texts of words and of bytes: through a real server and its restarts, by the SDK and the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from e2e.command import carousel
from support.server import ServerProcess
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn

import carousel as sdk
import carousel_models

WORDS = ["the", "cat", "sat", "down", "[BOS]", "</s>", "[UNK]"]
THE, CAT, SAT, DOWN, BOS, EOS, UNKNOWN = range(7)
GREEDY = {"temperature": 0, "timeout_s": 30}


def speaking(vocabulary: int, says: dict[int, int]) -> dict[str, nn.Module]:
    """Modules of a model that says `says[t]` after token t, whatever came before."""
    embedding, head = nn.Embedding(vocabulary, vocabulary), nn.Linear(vocabulary, vocabulary)
    stack = nn.RNN(vocabulary, vocabulary, batch_first=True)
    with torch.no_grad():
        for parameter in (*stack.parameters(), *head.parameters()):
            parameter.zero_()
        embedding.weight.copy_(torch.eye(vocabulary))
        stack.weight_ih_l0.copy_(4 * torch.eye(vocabulary))
        for token, said in says.items():
            head.weight[said, token] = 1.0
    return {"embedding": embedding, "stack": stack, "head": head}


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    library = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    library.add_special_tokens(["[BOS]", "</s>"])
    library.post_processor = processors.TemplateProcessing(
        single="[BOS] $A </s>", special_tokens=[("[BOS]", BOS), ("</s>", EOS)]
    )
    library.enable_padding(length=9, pad_id=UNKNOWN, pad_token="[UNK]")
    library.enable_truncation(3)
    library.save(str(folder / "tokenizer.json"))
    ring = {THE: CAT, CAT: SAT, SAT: DOWN, DOWN: THE}
    ends = {THE: CAT, CAT: EOS, EOS: THE}
    for name, says, eos in (("words", ring, ()), ("ends", ends, EOS), ("endless", ends, ())):
        carousel_models.save(
            folder / "models" / name, **speaking(len(WORDS), says), eos=eos,
            tokenizer=folder / "tokenizer.json",
        )  # fmt: skip
    carousel_models.save(
        folder / "models" / "bytes", **speaking(256, {0xC3: 0xA9, 0xA9: 0xC3}), tokenizer="bytes"
    )
    return folder / "models"


@pytest.fixture(scope="module")
def server(packages: Path):
    with ServerProcess(packages) as server:
        yield server


@pytest.fixture(scope="module")
def client(server):
    with sdk.Client(server.target) as client:
        yield client


def test_words_of_a_call_of_its_own(client) -> None:
    generation = client.generate("words", "the cat", max_tokens=2, **GREEDY)
    assert (generation.text(), generation.usage.prompt_tokens) == (" sat down", 3)


def test_words_of_a_session(client) -> None:
    with client.session("words") as session:
        first = session.generate("the cat", max_tokens=1, **GREEDY)
        assert (first.text(), first.usage.applied) == (" sat", 3)
        second = session.generate("the cat", max_tokens=1, **GREEDY)
        assert (second.text(), second.usage.applied) == (" sat", 6)
        with session.fork() as fork:
            assert fork.generate(max_tokens=2, **GREEDY).text() == " down the"
        with client.import_session(session.export()) as copy:
            assert copy.generate("the", max_tokens=1, **GREEDY).text() == " cat"
        assert session.generate(max_tokens=1, stop="down", **GREEDY).text() == " "


def test_bytes_of_a_session(client) -> None:
    with client.session("bytes") as session:
        texts = [session.generate("é", max_tokens=1, **GREEDY).text()]
        with session.fork() as fork:
            assert fork.generate(max_tokens=1, **GREEDY).text() == "é"
        texts += [session.generate(max_tokens=1, **GREEDY).text() for _ in range(3)]
        assert texts == ["", "é", "", "é"]
    whole = client.generate("bytes", "é", max_tokens=4, **GREEDY)
    assert whole.text() == "".join(texts)
    assert client.generate("bytes", "é", max_tokens=1, **GREEDY).text() == "\ufffd"


def test_a_text_ends_at_eos_or_at_its_name(client) -> None:
    for model, stop in (("ends", ()), ("endless", "</s>")):
        generation = client.generate(model, "the", max_tokens=9, stop=stop, **GREEDY)
        assert generation.text() == " cat"
        assert (str(generation.finish_reason), generation.usage.generated_tokens) == ("stop", 2)


@pytest.mark.parametrize("model", ["ends", "endless"])
def test_a_snapshot_goes_to_the_model_that_it_names(client, model: str) -> None:
    """The two share their weights, and only one of them has an EOS."""
    with client.session(model) as session:
        session.generate("the", max_tokens=1, **GREEDY).text()
        with client.import_session(session.export()) as copy:
            assert copy.model == model
        with client.import_session(session.export(), model="ends") as copy:
            assert copy.model == "ends"


@pytest.mark.parametrize("durability", ["async", "sync"])
def test_texts_go_on_after_a_restart(packages: Path, tmp_path: Path, durability: str) -> None:
    store = f"sqlite:{tmp_path / 'sessions.db'}"
    with ServerProcess(packages, store=store) as first, sdk.Client(first.target) as client:
        words = client.session("words", session_id="w", durability=durability)
        assert words.generate("the cat", max_tokens=1, **GREEDY).text() == " sat"
        octets = client.session("bytes", session_id="b", durability=durability)
        assert octets.generate("é", max_tokens=1, **GREEDY).text() == ""
        words.detach()
        octets.detach()
    with ServerProcess(packages, store=store) as second, sdk.Client(second.target) as client:
        with client.attach("w") as words:
            again = words.generate("the cat", max_tokens=1, **GREEDY)
            assert (again.text(), again.usage.applied) == (" sat", 6)
        with client.attach("b") as octets:
            assert octets.generate(max_tokens=2, **GREEDY).text() == "é"
            assert octets.generate(max_tokens=1, **GREEDY).text() == "é"


def test_the_command_prints_whole_words_and_characters(server) -> None:
    def run(*arguments: str) -> str:
        done = carousel(*arguments, "--temperature", "0", "--server", server.target)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run("generate", "words", "the cat", "--max-tokens", "2") == "the cat sat down\n"
    assert run("generate", "endless", "the", "--stop", "</s>") == "the cat\n"
    counts = json.loads(run("generate", "ends", "the", "-o", "json"))
    assert (counts["text"], counts["finish_reason"]) == (" cat", "stop")
    with sdk.Client(server.target) as client, client.session("bytes") as session:
        arguments = ("--session", session.id, "--max-tokens", "1")
        assert run("generate", "bytes", "é", *arguments) == "é\n"
        assert run("generate", "bytes", "", *arguments) == "é\n"


def test_the_command_infers_over_a_text_of_words(server, tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("the cat")
    done = carousel("infer", "words", str(path), "--server", server.target)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1 + 4  # [BOS] the cat </s>
    path.write_bytes(b"caf\xe9")
    done = carousel("infer", "words", str(path), "--server", server.target)
    assert (done.returncode, "is not UTF-8 text" in done.stderr) == (2, True)
