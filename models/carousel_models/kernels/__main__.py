"""`python -m carousel_models.kernels`: compiles the native library for every kind of processor.

Run it once where the package is installed. The machines that serve then need no compiler.
"""

from __future__ import annotations

import sys

from carousel_models.errors import KernelError

from .compiling import LEVELS, SHIPPED, compile_into


def main() -> int:
    """Compiles into the package's own folder. Returns the exit code."""
    SHIPPED.mkdir(exist_ok=True)
    try:
        for name in LEVELS:
            print(compile_into(SHIPPED, name))  # noqa: T201 - the command's output
    except KernelError as error:
        print(f"kernels: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
