"""A model with an encoder and a decoder: through a real server, by the SDK and the command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.command import carousel
from support.server import ServerProcess

import carousel as sdk
from tests.unit.engine.stages import MOST, START, STOP, A, B, Translator

PROMPTS = [[3, 1, 2], [4], [0, 2], [1, 1, 1, 4]]


@pytest.fixture(scope="module")
def translator() -> Translator:
    return Translator()


@pytest.fixture(scope="module")
def models(translator: Translator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stages")
    translator.save(folder / "translator")
    return folder


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[ServerProcess]:
    with ServerProcess(models) as server:
        yield server


@pytest.fixture
def client(server: ServerProcess) -> Iterator[sdk.Client]:
    with sdk.Client(server.target) as client:
        yield client


def test_a_client_sees_the_decoder(client: sdk.Client) -> None:
    info = client.model("translator")
    assert info.decoder == sdk.DecoderInfo(B, START, STOP, MOST)
    assert (info.vocabulary, info.input_tokens, info.generative) == (A, A + B, True)
    assert info.label_names([0, B - 1]) == ["<0>", f"<{B - 1}>"]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_prompt_is_the_encoder_s_and_tokens_are_the_decoder_s(
    prompt: list[int], client: sdk.Client, translator: Translator
) -> None:
    said = translator.greedy(prompt)
    generation = client.generate("translator", prompt, temperature=0)  # 256 tokens, but for `most`
    assert [token.id for token in generation] == said
    with client.session("translator") as session:
        for _ in range(2):
            assert [t.id for t in session.generate(prompt, temperature=0)] == said
        session.reset()
        session.steps(prompt)
        assert [t.id for t in session.generate(temperature=0)] == said


def test_a_state_that_a_client_hands_over_is_decoded(
    client: sdk.Client, translator: Translator
) -> None:
    with client.session("translator") as encoder:
        encoder.steps(PROMPTS[0])
        state = encoder.state()
    with client.session("translator", state=state) as decoder:
        found = [token.id for token in decoder.generate(temperature=0)]
    assert found == translator.greedy(PROMPTS[0])


def test_tokens_of_the_wrong_stage_are_refused(client: sdk.Client) -> None:
    with pytest.raises(sdk.UnknownTokenError, match=f"0 … {A - 1}"):
        client.generate("translator", [A]).text()
    with pytest.raises(sdk.FieldInvalidError, match="stop_tokens"):
        client.generate("translator", [0], stop_tokens=[B]).text()
    found = client.generate("translator", [3, 1, 2], temperature=0, stop_tokens=[B - 1])
    assert B - 1 not in [token.id for token in found]
    with client.session("translator") as session, pytest.raises(sdk.UnknownTokenError):
        session.step(A + B)


def test_the_command_takes_tokens_and_prints_labels(
    server: ServerProcess, translator: Translator
) -> None:
    said = translator.greedy(PROMPTS[0])
    arguments = ("generate", "translator", "--temperature", "0", "--server", server.target)
    done = carousel(*arguments, "--tokens", "3,1,2")
    assert done.stdout == " ".join(f"<{token}>" for token in said) + "\n"
    done = carousel(*arguments, "--tokens", "3 1 2", "-o", "json")
    found = json.loads(done.stdout)
    assert (found["tokens"], found["prompt_tokens"]) == (said, 4)
    for wrong in (("--tokens", "x"), ("a", "--tokens", "1"), (), ("--tokens", "")):
        done = carousel(*arguments, *wrong)
        assert (done.returncode, done.stdout) == (2, ""), wrong
    shown = carousel("models", "show", "translator", "--server", server.target, "-o", "json").stdout
    decoder = {"vocabulary": B, "start": START, "stop": STOP, "most": MOST}
    assert json.loads(shown)["decoder"] == decoder


def test_a_session_outlives_its_server_between_and_within_texts(
    models: Path, translator: Translator, tmp_path: Path
) -> None:
    """Killed in the middle of a text, and the caller gets each token once."""
    store = f"sqlite:{tmp_path / 'store.db'}"
    prompt = max(PROMPTS, key=lambda one: len(translator.greedy(one)))
    said = translator.greedy(prompt)
    with ServerProcess(models, store=store) as first:
        port = first.port
        with sdk.Client(first.target) as client:
            session = client.session("translator", durability="sync")
            assert [t.id for t in session.generate([4, 4], temperature=0)] == translator.greedy(
                [4, 4]
            )
            generation = session.generate(prompt, temperature=0)
            found = [next(generation).id]
            first.process.kill()
            first.process.wait()
            with ServerProcess(models, store=store, port=port):
                found += [token.id for token in generation]
                assert found == said
                assert [t.id for t in session.generate([0], temperature=0)] == translator.greedy(
                    [0]
                )
