from __future__ import annotations

import hashlib
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from carousel_models import Manifest, PackageError, create, load, read_manifest, save
from carousel_models.cells import GRUResetBefore
from carousel_models.from_torch import RecurrentModule
from carousel_models.spec import (
    Architecture,
    CustomSpec,
    FeaturesInput,
    MlpHead,
    SelectArgmax,
    SelectTopK,
    StateDeclaration,
    TokensInput,
    uniform_stack,
)
from carousel_models.weights import fingerprint
from tests.unit.models.custom_modules import LeakySum, Raising, WrongShape, WrongState

MODULE = "tests.unit.models.custom_modules"


def save_custom(path: Path, module: LeakySum | None = None, **fields: Any) -> Manifest:
    torch.manual_seed(0)
    module = module or LeakySum(3, 4)
    spec = CustomSpec(
        module=f"{MODULE}:{type(module).__name__}",
        kwargs={"width": 3, "out": 4},
        states=(
            StateDeclaration(name="total", shape=(4,)),
            StateDeclaration(name="count", shape=(), dtype="int64"),
        ),
        width=4,
    )
    return save(path, stack=module, custom=spec, features=3, **fields)


def test_everything_that_was_said_is_in_the_manifest(tmp_path: Path) -> None:
    written = save(
        tmp_path / "m",
        name="other-name",
        embedding=nn.Embedding(256, 6),
        stack=nn.LSTM(6, 8, 2),
        head=nn.Sequential(nn.Linear(8, 7), nn.Tanh(), nn.Linear(7, 3)),
        transform="softmax",
        select=SelectTopK(k=2),
        tokenizer="bytes",
        labels=["a", "b", "c"],
        description="a test",
        training={"data": "noise", "loss": 0.25},
        dtype="bfloat16",
    )
    assert read_manifest(tmp_path / "m") == written
    assert written.name == "other-name"
    assert written.input == TokensInput(vocabulary=256, embedding=6)
    assert written.head == MlpHead(hidden=(7,), width=3, activation="tanh")
    assert written.labels == ("a", "b", "c")
    assert written.training == {"data": "noise", "loss": 0.25}
    model = load(tmp_path / "m")
    assert model.tokenizer is not None
    assert model.tokenizer.kind == "bytes"
    assert [field[0] for field in model.output_fields] == ["values", "indices"]
    assert (model.vocabulary, model.generative, model.causal) == (256, False, True)
    assert {tensor.dtype for tensor in model.initial_state(2)} == {torch.float32}


def test_normalization_makes_raw_values_safe(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.GRU(2, 4)
    save(
        tmp_path / "raw",
        stack=module,
        normalization=(np.array([1e6, -5.0]), torch.tensor([2e5, 0.5])),
    )
    model = load(tmp_path / "raw")
    x = torch.randn(1, 6, 2)
    raw, _ = model.sequence(
        x * torch.tensor([2e5, 0.5]) + torch.tensor([1e6, -5.0]), torch.tensor([6])
    )
    torch.testing.assert_close(raw[0], module(x[0])[0].detach(), rtol=1e-4, atol=1e-5)


def test_modules_in_a_list_and_norms(tmp_path: Path) -> None:
    stack: list[RecurrentModule] = [
        nn.RNN(3, 5, nonlinearity="relu"),
        GRUResetBefore(5, 5),
        nn.LSTM(5, 4, 2),
    ]
    norms = [None, nn.LayerNorm(5), None, nn.LayerNorm(4)]
    written = save(tmp_path / "m", stack=stack, residual=[False, True, False, False], norms=norms)
    assert [layer.cell for layer in written.stack] == [
        "rnn_relu",
        "gru_reset_before",
        "lstm",
        "lstm",
    ]
    assert [layer.residual for layer in written.stack] == [False, True, False, False]
    assert [layer.layer_norm for layer in written.stack] == [False, True, False, True]
    assert load(tmp_path / "m").parameters == sum(
        p.numel() for module in (*stack, *filter(None, norms)) for p in module.parameters()
    )


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"stack": nn.Linear(3, 3)}, "holds a Linear; give nn.RNN"),
        ({"stack": []}, "do not make a model"),
        ({"stack": nn.GRU(3, 4), "head": nn.Linear(5, 2)}, r"fit together: head.0.weight"),
        ({"stack": [nn.GRU(3, 4), nn.GRU(5, 4)]}, r"fit together: stack.1.forward.weight_ih"),
        ({"stack": nn.GRU(3, 4), "embedding": nn.Embedding(9, 5)}, "fit together"),
        ({"stack": nn.GRU(3, 4), "head": nn.Sequential(nn.Linear(4, 2), nn.GLU())}, "is not Linear"),
        ({"stack": nn.GRU(3, 4), "head": nn.Conv1d(4, 2, 1)}, "is not Linear, activation"),
        (
            {"stack": nn.GRU(3, 4), "head": nn.Sequential(nn.Linear(4, 2), nn.Softmax(1), nn.Linear(2, 2))},
            "is not Linear",
        ),
        ({"stack": nn.GRU(3, 4), "residual": [True, True]}, "1 layers, 2 residual flags"),
        ({"stack": nn.GRU(3, 4), "residual": True}, "widths differ"),
        ({"stack": nn.GRU(3, 4), "normalization": ([0.0], [1.0])}, "3 means and stds"),
        ({"stack": nn.GRU(3, 4), "tokenizer": "bytes"}, "needs an input of kind tokens"),
        ({"stack": nn.GRU(3, 4), "name": "a/b"}, "name"),
        ({"stack": nn.GRU(3, 4), "eos": 1}, "eos ends generated texts"),
        ({"stack": nn.GRU(3, 4), "eos": "</s>"}, "eos must be a token id or several"),
    ],
)  # fmt: skip
def test_what_cannot_be_saved(tmp_path: Path, parts: dict[str, Any], message: str) -> None:
    with pytest.raises(PackageError, match=message):
        save(tmp_path / "m", **parts)
    assert not list(tmp_path.iterdir())


def test_an_existing_package_is_replaced_only_on_purpose(tmp_path: Path) -> None:
    create("m", hidden=4, seed=1, dir=tmp_path)
    before = read_manifest(tmp_path / "m").fingerprint
    with pytest.raises(PackageError, match="exists; choose another name"):
        create("m", hidden=4, seed=2, dir=tmp_path)
    assert read_manifest(tmp_path / "m").fingerprint == before
    create("m", hidden=4, seed=2, dir=tmp_path, overwrite=True)
    assert load(tmp_path / "m").fingerprint != before
    assert os.listdir(tmp_path) == ["m"]  # noqa: PTH208 - hidden files count


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("carousel_models.writing.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        create("m", hidden=4, dir=tmp_path)
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - hidden files count


def test_a_tokenizer_file_is_copied(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    vocabulary = {word: number for number, word in enumerate("abc")}
    source = tmp_path / "words.json"
    Tokenizer(models.WordLevel(vocabulary, unk_token="a")).save(str(source))
    save(tmp_path / "m", embedding=nn.Embedding(3, 4), stack=nn.GRU(4, 4), tokenizer=source)
    source.unlink()
    tokenizer = load(tmp_path / "m").tokenizer
    assert tokenizer is not None
    assert (tokenizer.kind, tokenizer.vocabulary) == ("huggingface", 3)
    assert tokenizer.encode("b").tolist() == [1]


@pytest.mark.parametrize("eos", [2, np.int64(2), [2], np.asarray([2])], ids=repr)
def test_eos_is_part_of_the_package_but_not_of_the_weights(tmp_path: Path, eos: Any) -> None:
    parts = {"embedding": nn.Embedding(3, 4), "stack": nn.GRU(4, 4), "head": nn.Linear(4, 3)}
    without, with_ = (
        save(tmp_path / str(i), **parts, **more) for i, more in enumerate(({}, {"eos": eos}))
    )
    assert (without.eos_tokens, with_.eos_tokens) == ((), (2,))
    assert without.fingerprint == with_.fingerprint
    assert load(tmp_path / "1").manifest.eos_tokens == (2,)


def test_fingerprint_is_stable_and_sensitive(tmp_path: Path) -> None:
    def made(name: str, **options: Any) -> str:
        defaults: dict[str, Any] = {"hidden": 4, "dir": tmp_path, "overwrite": True}
        return create(name, **defaults | options).fingerprint

    one = made("a")
    assert made("b") == one  # neither name nor place
    others = [
        made("a", seed=1),
        made("a", hidden=5),
        made("a", dtype="bf16"),
        made("a", transform="softmax"),
        made("a", select=SelectArgmax()),
        made("a", cell="gru"),
    ]
    assert len({one, *others}) == 7


CANONICAL = (
    '{"custom":null,"dtype":"float32","head":{"kind":"none"},'
    '"input":{"kind":"features","normalization":null,"projection":null,"width":1},'
    '"output":{"select":{"kind":"full"},"transform":"identity"},'
    '"stack":[{"bias":true,"bidirectional":false,"cell":"gru","hidden":2,"layer_norm":false,'
    '"proj_size":0,"residual":false}]}'
)


def test_fingerprint_is_the_documented_hash() -> None:
    """It binds snapshots to weights, so it must not change from version to version."""
    architecture = Architecture(input=FeaturesInput(width=1), stack=uniform_stack("gru", 1, 2))
    digest = hashlib.sha256(CANONICAL.encode())
    digest.update(b"\nb torch.bfloat16 [2]\n" + b"\x80\x3f" * 2)
    digest.update(b"\nw torch.float32 [1, 2]\n" + struct.pack("<2f", 0.5, -1.0))
    tensors = {"w": torch.tensor([[0.5, -1.0]]), "b": torch.ones(2, dtype=torch.bfloat16)}
    assert fingerprint(architecture, tensors) == digest.hexdigest()


def test_custom_module_round_trip(tmp_path: Path) -> None:
    save_custom(tmp_path / "m", head=nn.Linear(4, 2))
    with pytest.raises(PackageError, match="LeakySum', which is not allowed here"):
        load(tmp_path / "m")
    model = load(tmp_path / "m", allow_custom={f"{MODULE}:LeakySum"})
    assert [(s.name, s.shape, s.dtype) for s in model.state_specs] == [
        ("total", (4,), torch.float32),
        ("count", (), torch.int64),
    ]
    assert model.state_bytes == 4 * 4 + 8
    assert model.manifest.cell == "custom"
    x = torch.randn(2, 5, 3)
    raw, state = model.sequence(x, torch.tensor([5, 3]))
    assert state[1].tolist() == [5, 3]
    first, middle = model.sequence(x[:, :2], torch.tensor([2, 2]))
    second, end = model.sequence(x[:, 2:], torch.tensor([3, 1]), middle)
    torch.testing.assert_close(torch.cat((first, second), 1), raw)
    torch.testing.assert_close(end, state)
    # Untouched by the package: the module's own equations.
    total = torch.zeros(4)
    weight = model.stack._module.weight  # type: ignore[attr-defined]
    head = model._rows._leave  # type: ignore[attr-defined]
    for count, row in enumerate(x[0]):
        total = 0.5 * total + weight @ row
        expected = head(total + count)
        torch.testing.assert_close(raw[0, count], expected)


def test_import_is_not_attempted_unless_allowed(tmp_path: Path) -> None:
    save_custom(tmp_path / "m")
    path = tmp_path / "m" / "manifest.json"
    path.write_text(path.read_text().replace(MODULE, "antigravity_that_is_nowhere"))
    with pytest.raises(PackageError, match="not allowed here"):
        load(tmp_path / "m", allow_custom={f"{MODULE}:LeakySum"})
    with pytest.raises(PackageError, match=r"cannot be made: ModuleNotFoundError"):
        load(tmp_path / "m", allow_custom={"antigravity_that_is_nowhere:LeakySum"})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("NoStep", "cannot be made: TypeError"),
        ("Failing", "cannot be made: TypeError"),
        ("nothing", "cannot be made: AttributeError"),
    ],
)
def test_custom_modules_that_do_not_fit(tmp_path: Path, name: str, message: str) -> None:
    save_custom(tmp_path / "m")
    path = tmp_path / "m" / "manifest.json"
    path.write_text(path.read_text().replace(":LeakySum", f":{name}"))
    with pytest.raises(PackageError, match=message):
        load(tmp_path / "m", allow_custom={f"{MODULE}:{name}"})


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (WrongShape(3, 4), r"ValueError.*gave y \[1, 3\].*declares y \[1, 4\]"),
        (WrongState(3, 4), r"ValueError.*float64.*declares"),
        (Raising(3, 4), "ZeroDivisionError"),
    ],
)
def test_custom_modules_that_break_their_word(
    tmp_path: Path, module: LeakySum, message: str
) -> None:
    with pytest.raises(PackageError, match=f"failed on its probe: {message}"):
        save_custom(tmp_path / "m", module=module)
    assert not list(tmp_path.iterdir())


def test_create_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "cell": "lstm",
        "layers": 2,
        "hidden": 8,
        "input": "features:4",
        "output": 4,
    }
    one = create("a", dtype="bf16", seed=3, dir=tmp_path, **options)
    two = create("b", dtype="bfloat16", seed=3, dir=tmp_path, **options)
    assert one.fingerprint == two.fingerprint
    assert one.dtype == "bfloat16"
    assert one.output_width == 4


def test_created_token_models_can_generate(tmp_path: Path) -> None:
    create("bytes", input="tokens:256", hidden=8, dir=tmp_path)
    create("others", input="tokens:50x4", hidden=8, dir=tmp_path)
    model, other = load(tmp_path / "bytes"), load(tmp_path / "others")
    assert model.generative
    assert other.generative
    assert model.tokenizer is not None
    assert other.tokenizer is None
    assert other.manifest.input == TokensInput(vocabulary=50, embedding=4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input": "pixels:3"}, "is not understood; use features:WIDTH"),
        ({"input": "features:3x4"}, "is not understood"),
        ({"input": "features:many"}, "out of range"),
        ({"input": "features:0"}, "out of range"),
        ({"dtype": "int8"}, "dtype 'int8' is unknown"),
        ({"cell": "qrnn"}, "no such model"),
        ({"layers": 0}, "no such model"),
        ({"hidden": 1 << 20}, "no such model"),
        ({"layers": 64, "hidden": 1 << 16}, "more than the limit"),
    ],
)
def test_create_refuses(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(PackageError, match=message):
        create("m", dir=tmp_path, **options)


def test_models_run_under_inference_mode_on_another_thread(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    create("m", hidden=4, input="features:3", dir=tmp_path)
    model = load(tmp_path / "m")

    def run() -> tuple[torch.Tensor, ...]:
        with torch.inference_mode():
            state = model.initial_state(2)
            raw, state = model.step(torch.zeros(2, 3), state)
            return (*model.finish(raw), *state)

    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(run).result()
    for found, wanted in zip(first, run(), strict=True):
        np.testing.assert_array_equal(found.numpy(), wanted.numpy())
