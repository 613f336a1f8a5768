"""The table of runtimes, and what each one refuses."""

from __future__ import annotations

import io
import logging
import zipfile
from pathlib import Path
from typing import get_args

import onnx
import pytest
import torch
from torch import Tensor, nn

from carousel_models.errors import PackageError
from carousel_models.importing.program_originals import ORIGINALS
from carousel_models.importing.readers import READERS
from carousel_models.program_spec import RuntimeName
from carousel_models.programs import RUNTIMES, open_program, runtime_of
from carousel_models.programs.onnx_program import has_external_data

from .graphs import HIDDEN, IN, Step, write_onnx, write_pt2, write_script

CPU = torch.device("cpu")


def test_each_runtime_of_a_manifest_has_its_entries() -> None:
    assert tuple(RUNTIMES) == tuple(ORIGINALS) == get_args(RuntimeName)
    for runtime in RUNTIMES.values():
        assert callable(runtime.load())
        assert all(end in READERS for end in runtime.ends)


def test_a_runtime_is_chosen_by_the_end_of_the_name() -> None:
    assert [runtime_of(name) for name in ("A.ONNX", "a.pt", "a.ts", "a.jit", "a.pt2")] == [
        *("onnx", "torchscript", "torchscript", "torchscript", "pt2")
    ]
    with pytest.raises(PackageError, match=r"no runtime runs a\.bin; give .*\.onnx"):
        runtime_of("a.bin")


def test_programs_beyond_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("carousel_models.programs.runtimes.MAX_PROGRAM_BYTES", 3)
    with pytest.raises(PackageError, match=r"a\.onnx has 4 bytes, more than the limit of 3"):
        open_program("onnx", b"1234", CPU, "a.onnx")


@pytest.mark.parametrize("end", ["ts", "pt2"])
def test_records_that_unpack_beyond_the_limit_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """A small archive may hold a large record of zeros."""
    write = write_script if end == "ts" else write_pt2
    data = io.BytesIO(write(tmp_path / f"step.{end}", Step()).read_bytes())
    with zipfile.ZipFile(data, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("step/zeros", bytes(1 << 20))
    monkeypatch.setattr("carousel_models.programs.archives.MAX_PROGRAM_BYTES", 1 << 20)
    with pytest.raises(PackageError, match=r"unpack to .* bytes, more than the limit"):
        open_program(runtime_of(f"step.{end}"), data.getvalue(), CPU, "step")


@pytest.mark.parametrize("name", RUNTIMES)
def test_damaged_files_are_refused(name: str) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a/code/__torch__.py", "x = ")
    for data in (b"", b"no model", archive.getvalue()):
        with pytest.raises(PackageError, match=r"^the\.file .*; |^the\.file "):
            open_program(name, data, CPU, "the.file")


def test_weights_alone_are_no_step_graph(tmp_path: Path) -> None:
    torch.save(Step().state_dict(), tmp_path / "weights.pt")
    with pytest.raises(PackageError, match=r"no TorchScript code.*carousel_models\.save"):
        open_program("torchscript", (tmp_path / "weights.pt").read_bytes(), CPU, "weights.pt")


class Saving(Step):
    """Writes a file while it is loaded, by a method that TorchScript calls then."""

    @torch.jit.export
    def __getstate__(self) -> tuple[Tensor, bool]:
        return self.w, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[Tensor, bool]) -> None:
        torch.save(state[0], "written")
        self.training = state[1]


def test_torchscript_that_writes_files_is_refused_before_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = write_script(tmp_path / "step.ts", Saving())
    with pytest.raises(PackageError, match="reads or writes files"):
        open_program("torchscript", file.read_bytes(), CPU, "step.ts")
    assert not (tmp_path / "written").exists()


class Listing(nn.Module):
    def forward(self, x: list[Tensor]) -> Tensor:
        return x[0]


class Sizes(nn.Module):
    def forward(self, x: Tensor) -> int:
        return x.shape[0]


@pytest.mark.parametrize(
    ("kind", "message"), [(Listing, "a step takes tensors"), (Sizes, "a step returns tensors")]
)
def test_torchscript_of_other_types_is_refused(
    tmp_path: Path, kind: type[nn.Module], message: str
) -> None:
    file = write_script(tmp_path / "step.ts", kind())
    with pytest.raises(PackageError, match=message):
        open_program("torchscript", file.read_bytes(), CPU, "step.ts")


def test_weights_outside_of_an_onnx_file_are_refused(tmp_path: Path) -> None:
    file = write_onnx(tmp_path / "step.onnx", external=True)
    with pytest.raises(
        PackageError, match=r"in another file \(external data\).*import the model again"
    ):
        open_program("onnx", file.read_bytes(), CPU, "step.onnx")


@pytest.mark.parametrize(
    "key", [b"\x0a\x08", b"\x8a\x00\x08", b"\x0a\x88\x80\x00", b"\x8a\x80\x80\x80\x10\x08"]
)
def test_external_data_is_found_in_any_encoding_of_its_key(key: bytes) -> None:
    """Numbers may be longer than they must be. The reader of C++ drops the bits of a tag beyond 32."""
    assert has_external_data(b"any" + key + b"location")


def test_the_word_location_alone_is_no_external_data(tmp_path: Path) -> None:
    model = onnx.load(write_onnx(tmp_path / "step.onnx"))
    model.doc_string = "the location of the weights is here"
    open_program("onnx", model.SerializeToString(), CPU, "step.onnx")


def test_onnx_on_a_gpu_says_that_it_runs_on_the_cpu(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = write_onnx(tmp_path / "step.onnx").read_bytes()
    with caplog.at_level(logging.WARNING):
        program = open_program("onnx", data, torch.device("cuda"), "step.onnx")
    assert program.device == CPU
    assert "step.onnx runs on the CPU: its rows and states are copied" in caplog.text


def test_onnx_takes_and_gives_memory_without_copies(tmp_path: Path) -> None:
    """One thread, so that bits do not depend on the machine's cores."""
    program = open_program(
        "onnx", write_onnx(tmp_path / "step.onnx").read_bytes(), CPU, "step.onnx"
    )
    options = program._session.get_session_options()  # type: ignore[attr-defined]
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
    call = program.bind(("x", "h"), ("y", "h_out"), {})
    x, h = torch.randn(2, IN), torch.zeros(2, HIDDEN)
    first, second = call([x, h]), call([x, h])
    assert torch.equal(first[1], second[1])
    assert first[1].data_ptr() != second[1].data_ptr()
