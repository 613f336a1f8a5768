"""`python -m carousel_server.wire.native`: compiles the native transport into the package's own folder.

Run it once where the package is installed. The machines that serve then need no compiler.
"""

from __future__ import annotations

import sys

from .library import SHIPPED, NativeError, compile_into


def main() -> int:
    """Compiles the transport. Returns the exit code."""
    try:
        print(compile_into(SHIPPED))  # noqa: T201 - the command's output
    except NativeError as error:
        print(f"transport: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
