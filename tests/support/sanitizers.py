"""Python with the native transport under a sanitizer.

`python -m tests.support.sanitizers address -m pytest -s tests/wire/test_native_transport.py`. Without -s,
pytest keeps what the sanitizer says.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from carousel_server.wire.native.library import compile_into

FLAGS = {
    "address": ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"),
    "thread": ("-fsanitize=thread",),
}
_RUNTIMES = {
    "address": ("libasan.so", "libubsan.so", "libstdc++.so"),
    "thread": ("libtsan.so", "libstdc++.so"),
}
_FAILS = 66
"""Exit status of a process in which a sanitizer has found something."""

_SUPPRESSED = """
called_from_lib:cygrpc
race:cygrpc
race:libpython
race:^std::string::
race:^char* std::string::
race:_dl_deallocate_tls
"""
"""What is not ours: gRPC's client, which has its own kind of std::string, the interpreter, and glibc."""


def sanitized(kind: str, folder: Path) -> dict[str, str]:
    """Compiles the transport into `folder` with the sanitizer `kind`.

    Returns the environment in which a Python process loads that library.
    """
    compile_into(folder / "carousel", ("-g", "-O1", "-fno-omit-frame-pointer", *FLAGS[kind]))
    suppressions = folder / "suppressions"
    suppressions.write_text(_SUPPRESSED)
    return {
        **os.environ,
        "XDG_CACHE_HOME": str(folder),
        "LD_PRELOAD": " ".join(map(_runtime, _RUNTIMES[kind])),
        "PYTHONMALLOC": "malloc",
        # Leaks are not looked for: the interpreter frees little at its end.
        "ASAN_OPTIONS": f"detect_leaks=0:abort_on_error=0:exitcode={_FAILS}",
        "UBSAN_OPTIONS": f"print_stacktrace=1:halt_on_error=1:exitcode={_FAILS}",
        "TSAN_OPTIONS": f"suppressions={suppressions}:exitcode={_FAILS}:die_after_fork=0",
    }


def command(*arguments: str) -> list[str]:
    """A Python process. Without random addresses, where ThreadSanitizer does not find its own."""
    return ["setarch", "-R", sys.executable, *arguments]


def _runtime(name: str) -> str:
    found = subprocess.run(
        ["g++", f"-print-file-name={name}"], check=True, capture_output=True, text=True
    )
    return str(Path(found.stdout.strip()).resolve())


def main(kind: str, *arguments: str) -> int:
    """Runs Python with `arguments` under a sanitizer; returns its exit status, or the sanitizer's."""
    with tempfile.TemporaryDirectory() as folder:
        environment = sanitized(kind, Path(folder))
        return subprocess.run(command(*arguments), env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
