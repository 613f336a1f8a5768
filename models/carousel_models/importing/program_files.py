"""The bytes of a step graph's file, with weights of other files packed in."""

from __future__ import annotations

from pathlib import Path

from carousel_models.errors import PackageError
from carousel_models.programs.onnx_program import has_external_data
from carousel_models.programs.runtimes import MAX_PROGRAM_BYTES


def file_bytes(path: Path) -> tuple[bytes, list[str]]:
    """A file as the package gets it, and notes for the user.

    Raises:
        PackageError: it is too large, or weights in other files cannot be packed in.
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    if size > MAX_PROGRAM_BYTES:
        raise PackageError(
            f"{path.name} has {size:,} bytes, more than the limit of {MAX_PROGRAM_BYTES:,}; give a "
            "smaller model, or one with weights of 16 bits"
        )
    data = path.read_bytes()
    if path.suffix.lower() == ".onnx" and has_external_data(data):
        return _packed(path), ["the weights of other files were packed into the program's file"]
    return data, []


def _packed(path: Path) -> bytes:
    try:
        import onnx
    except ImportError as missing:
        raise PackageError(
            f"{path.name} keeps weights in other files, and packing them in needs onnx, which is not "
            f"installed here ({missing}); pip install 'carousel-serving[import]'"
        ) from missing
    try:
        data = onnx.load(path).SerializeToString()
    except Exception as error:  # protocol buffers fail in many ways, also beyond 2 GiB
        raise PackageError(
            f"the weights of {path.name} that lie in other files cannot be packed in: {error!r}; copy "
            "all files of the model to one folder, and export models of more than 2 GiB with weights of "
            "16 bits"
        ) from error
    if len(data) > MAX_PROGRAM_BYTES:
        raise PackageError(
            f"{path.name} has {len(data):,} bytes with its weights, more than the limit of "
            f"{MAX_PROGRAM_BYTES:,}; export it with weights of 16 bits"
        )
    return bytes(data)
