"""Damaged packages are refused, each with a message that says cause and fix."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from carousel_models import PackageError, check, create, discover, load, read_manifest, zoo_path
from carousel_models.weights import check_finite, fingerprint


@pytest.fixture
def package(tmp_path: Path) -> Path:
    create("good", cell="gru", layers=2, hidden=8, input="features:3", output=2, dir=tmp_path)
    return tmp_path / "good"


def edit_manifest(package: Path, **changes: Any) -> None:
    path = package / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tensors(path: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def refused(package: Path, message: str) -> None:
    with pytest.raises(PackageError, match=message):
        load(package)
    report = check(package)
    assert not report.ok
    assert report.manifest is None


def test_a_good_package_is_accepted(package: Path) -> None:
    report = check(package)
    assert report.ok
    assert report.probe_error < 1e-5
    model = load(package)
    assert (
        report.parameters
        == model.parameters
        == sum(tensor.numel() for tensor in load_file(package / "model.safetensors").values())
    )
    assert report.state_bytes == model.state_bytes == 2 * 8 * 4
    assert model.fingerprint == read_manifest(package).fingerprint


@pytest.mark.parametrize("name", ["manifest.json", "model.safetensors", "probe.safetensors"])
def test_missing_file(package: Path, name: str) -> None:
    (package / name).unlink()
    refused(package, rf"{name} is missing; copy the whole package again")


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("stack.1.forward.weight_hh", float("nan"), "NaN"),
        ("head.0.bias", float("inf"), "an infinity"),
        ("stack.0.forward.bias_ih", -float("inf"), "an infinity"),
    ],
)
def test_weights_that_are_not_finite(package: Path, name: str, value: float, what: str) -> None:
    path = package / "model.safetensors"
    edit_tensors(path, lambda tensors: tensors[name].view(-1)[1].fill_(value))
    found = fingerprint(read_manifest(package).architecture, load_file(path))
    edit_manifest(package, fingerprint=found)
    refused(package, rf"tensor {re.escape(name)} holds {what}")


def test_a_custom_module_may_have_infinite_masks(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    check_finite(path, {"custom.mask": torch.tensor([0.0, -torch.inf])}, "custom.")
    check_finite(path, {"custom.table": torch.tensor([1, 2])}, "custom.")
    with pytest.raises(PackageError, match=r"tensor custom\.mask holds NaN"):
        check_finite(path, {"custom.mask": torch.tensor([0.0, torch.nan])}, "custom.")


def test_missing_folder(tmp_path: Path) -> None:
    refused(tmp_path / "nothing", "manifest.json is missing")


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "is not JSON"), ("[]", "format None is unknown"), ('{"format": 99}', "format 99 is unknown"),
     ("[" * 100_000, "is not JSON")],
    ids=["cut", "list", "version", "deep"],
)  # fmt: skip
def test_not_a_manifest(package: Path, text: str, message: str) -> None:
    (package / "manifest.json").write_text(text)
    refused(package, message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": "red"}, "colour: there is no such field"),
        ({"format": 2}, "format 2 is unknown, this version reads 1"),
        ({"stack": []}, "either `stack`"),
        ({"tokenizer": "huggingface"}, "needs an input of kind tokens"),
        ({"tokenizer": "../../secret"}, "tokenizer"),
        ({"head": {"kind": "linear", "width": 10**9, "bias": True}}, "head.linear.width"),
        ({"fingerprint": "0" * 64}, "the manifest says 000000000000…"),
        ({"output": {"transform": "softmax", "select": {"kind": "full"}}}, "have fingerprint"),
    ],
    ids=str,
)
def test_manifest_changed(package: Path, changes: dict[str, Any], message: str) -> None:
    edit_manifest(package, **changes)
    refused(package, message)


def test_oversize_model_is_refused_before_its_weights_are_opened(package: Path) -> None:
    layer = read_manifest(package).stack[0].model_dump() | {"hidden": 65536}
    edit_manifest(package, stack=[layer] * 64)
    (package / "model.safetensors").write_bytes(b"never read")
    refused(package, "more than the limit")


def test_oversize_manifest(package: Path) -> None:
    with (package / "manifest.json").open("r+b") as file:
        file.truncate((16 << 20) + 1)
    refused(package, "larger than the limit")


def test_wrong_tensors(package: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors["stranger"] = torch.zeros(1)
        del tensors["head.0.bias"]
        tensors["head.0.weight"] = tensors["head.0.weight"].T.contiguous()
        tensors["stack.0.forward.bias_ih"] = tensors["stack.0.forward.bias_ih"].half()

    edit_tensors(package / "model.safetensors", change)
    refused(package, "head.0.bias is missing")
    refused(package, "stranger is not part of the architecture")
    refused(package, r"head.0.weight is float32\[8, 2\] instead of float32\[2, 8\]")
    refused(package, r"bias_ih is float16\[24\] instead of float32\[24\]")


def test_flipped_byte_in_the_weights(package: Path) -> None:
    path = package / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    refused(package, "fingerprint .* a file was changed or damaged")


@pytest.mark.parametrize("keep", [0, 7, 100, -4])
def test_cut_weights(package: Path, keep: int) -> None:
    path = package / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    refused(package, "not a safetensors file")


@pytest.mark.parametrize("value", [1.0, float("nan")])
def test_wrong_probe_outputs(package: Path, value: float) -> None:
    edit_tensors(package / "probe.safetensors", lambda t: t.update(raw=t["raw"] + value))
    refused(package, "does not reproduce its probe")


def test_probe_of_another_shape(package: Path) -> None:
    edit_tensors(package / "probe.safetensors", lambda t: t.update(input=torch.zeros(8, 4)))
    refused(package, r"input is float32\[8, 4\] instead of float32\[8, 3\]")


def test_probe_with_tokens_outside_the_vocabulary(tmp_path: Path) -> None:
    create("tokens", input="tokens:9x4", hidden=4, dir=tmp_path)
    edit_tensors(
        tmp_path / "tokens" / "probe.safetensors", lambda t: t.update(input=t["input"] * 0 + 9)
    )
    refused(tmp_path / "tokens", "tokens outside the vocabulary")


@pytest.mark.parametrize("name", ["model.safetensors", "probe.safetensors"])
def test_links_out_of_the_package(package: Path, name: str) -> None:
    target = package.parent / "elsewhere"
    (package / name).rename(target)
    (package / name).symlink_to(target)
    refused(package, f"{name} is a link out of the package")


def test_tokenizer_that_leads_out_of_the_package(tmp_path: Path) -> None:
    create("tokens", input="tokens:300x4", hidden=4, dir=tmp_path)
    package, secret = tmp_path / "tokens", tmp_path / "secret.json"
    edit_manifest(package, tokenizer="huggingface")
    refused(package, "tokenizer.json is missing")
    secret.write_text("{}")
    (package / "tokenizer.json").symlink_to("../secret.json")
    refused(package, "tokenizer.json is a link out of the package")


def test_tokenizer_with_more_tokens_than_the_model(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    create("tokens", input="tokens:3x4", hidden=4, dir=tmp_path)
    edit_manifest(tmp_path / "tokens", tokenizer="huggingface")
    vocabulary = {word: number for number, word in enumerate("abcde")}
    Tokenizer(models.WordLevel(vocabulary, unk_token="a")).save(
        str(tmp_path / "tokens" / "tokenizer.json")
    )
    refused(tmp_path / "tokens", "the tokenizer has 5 tokens, the model only 3")


def test_discover(tmp_path: Path, package: Path) -> None:
    create("also", hidden=4, dir=tmp_path)
    (tmp_path / "no-package").mkdir()
    (tmp_path / ".also-partial").mkdir()
    (tmp_path / ".also-partial" / "manifest.json").touch()
    assert discover(tmp_path) == [tmp_path / "also", package]
    assert discover(package) == [package]
    with pytest.raises(PackageError, match="is not a directory"):
        discover(tmp_path / "nothing")


def test_the_zoo_is_found() -> None:
    assert zoo_path().is_dir()
    assert zoo_path().name == "zoo"
