"""Makes the committed stubs from the .proto files; `--check` compares instead of writing.

Run by `make protos` and `make check` in an environment of its own, which holds the oldest grpcio-tools
that the package promises to work with: generated code refuses runtimes older than its generator.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent
PROTO = "carousel_protos/v1/carousel.proto"
SUFFIXES = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")

TRITON_PROTO = "carousel_protos/triton/inference.proto"
TRITON_SUFFIXES = ("_pb2.pyi", ".binpb")
"""Types and descriptors only: its classes are made in a descriptor pool of their own."""


STATUS_PROTO = "google/rpc/status.proto"
STATUS_COPY = Path("third_party") / STATUS_PROTO
"""What ours imports, for users of other languages. The copy is that of googleapis-common-protos."""


def site_packages() -> Path:
    """The folder of this environment that has Google's .proto files."""
    return next(p for p in map(Path, sys.path) if (p / STATUS_PROTO).is_file())


def generate(out: Path) -> None:
    """Writes the stubs of PROTO below `out`.

    mypy-protobuf finds its plug-ins on PATH, so the environment's bin directory goes first.
    """
    site = site_packages()
    bin_dir = Path(sys.executable).parent
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            f"--proto_path={ROOT}",
            f"--proto_path={site / 'grpc_tools/_proto'}",
            f"--proto_path={site}",
            f"--plugin=protoc-gen-mypy={bin_dir / 'protoc-gen-mypy'}",
            f"--plugin=protoc-gen-mypy_grpc={bin_dir / 'protoc-gen-mypy_grpc'}",
            f"--python_out={out}",
            f"--grpc_python_out={out}",
            f"--mypy_out=quiet:{out}",
            f"--mypy_grpc_out=quiet:{out}",
            f"--descriptor_set_out={out / 'image.binpb'}",
            "--include_imports",
            "--include_source_info",
            PROTO,
        ],
        check=True,
    )


def generate_triton(out: Path) -> None:
    """Writes types and descriptors of TRITON_PROTO below `out`."""
    bin_dir = Path(sys.executable).parent
    descriptors = Path(TRITON_PROTO).with_suffix(".binpb")
    (out / descriptors).parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            f"--proto_path={ROOT}",
            f"--plugin=protoc-gen-mypy={bin_dir / 'protoc-gen-mypy'}",
            f"--mypy_out=quiet:{out}",
            f"--descriptor_set_out={out / descriptors}",
            TRITON_PROTO,
        ],
        check=True,
    )


def committed() -> list[str]:
    """The files that are made here, below ROOT."""
    stem, triton = PROTO.removesuffix(".proto"), TRITON_PROTO.removesuffix(".proto")
    made = [stem + s for s in SUFFIXES] + [triton + s for s in TRITON_SUFFIXES]
    return [*made, str(STATUS_COPY)]


def main() -> int:
    """Generates, then writes or compares. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if a committed stub is stale")
    parser.add_argument("--image", type=Path, help="also write the descriptor set for buf here")
    options = parser.parse_args()
    stale = []
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        generate_triton(Path(scratch))
        copy = Path(scratch, STATUS_COPY)
        copy.parent.mkdir(parents=True)
        copy.write_bytes((site_packages() / STATUS_PROTO).read_bytes())
        for name in committed():
            made, there = Path(scratch, name).read_bytes(), ROOT / name
            if options.check:
                if not there.is_file() or there.read_bytes() != made:
                    stale.append(name)
            else:
                there.parent.mkdir(parents=True, exist_ok=True)
                there.write_bytes(made)
        if options.image:
            options.image.write_bytes(Path(scratch, "image.binpb").read_bytes())
    for name in stale:
        print(f"stale stub: protos/{name}; run `make protos`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
