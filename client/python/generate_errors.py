"""Writes carousel/_errors.py, one exception class per reason, from the registry of errors.

Run it after a change of carousel_protos/errors.py:  python client/python/generate_errors.py
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from carousel_protos.errors import ERRORS, ErrorSpec

TARGET = Path(__file__).parent / "carousel" / "_errors.py"

HEADER = '''"""One exception class per reason of the registry. Made by generate_errors.py: do not edit."""

from __future__ import annotations

from ._error_bases import (
{imports}
)

__all__ = [
{names}
]
'''

CLASS = '''

class {name}({base}, reason="{reason}"):
    """{meaning}

{fix}
    """
'''


def render_class(spec: ErrorSpec) -> str:
    """The class of one reason, as source."""
    return CLASS.format(
        name=spec.exception,
        base=spec.kind,
        meaning=textwrap.fill(spec.meaning, 92, subsequent_indent="    "),
        fix=textwrap.indent(textwrap.fill("Fix: " + spec.fix, 92), "    "),
        reason=spec.reason,
    )


def render() -> str:
    """The whole module, as source."""
    bases = sorted({spec.kind for spec in ERRORS.values()})
    names = sorted(spec.exception for spec in ERRORS.values())
    header = HEADER.format(
        imports="\n".join(f"    {base}," for base in bases),
        names="\n".join(f'    "{name}",' for name in names),
    )
    return header + "".join(render_class(spec) for spec in ERRORS.values())


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the module, or compares it; 1 if it is out of date."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    if not parser.parse_args(argv).check:
        TARGET.write_text(render(), encoding="utf-8")
    elif TARGET.read_text(encoding="utf-8") != render():
        sys.stderr.write(
            f"out of date: {TARGET.name}; run python client/python/generate_errors.py\n"
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
