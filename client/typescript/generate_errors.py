"""Writes src/registry.ts, the reasons of all errors with code, kind and fix, from the registry of errors.

Run it after a change of carousel_protos/errors.py:  python client/typescript/generate_errors.py
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from carousel_protos.errors import ERRORS, ErrorSpec

TARGET = Path(__file__).parent / "src" / "registry.ts"

HEADER = """// The reasons of all errors of a server. Made by generate_errors.py: do not edit.

/** Of each reason: its code, the class of its errors, and how to fix it. */
export const REGISTRY = {
"""

FOOTER = """} as const;

/** A reason that this client knows. */
export type ServerReason = keyof typeof REGISTRY;
"""


def render_entry(spec: ErrorSpec) -> str:
    """One reason, as source."""
    return (
        f"  /** {spec.meaning} */\n"
        f"  {spec.reason}: {{\n"
        f"    code: {json.dumps(spec.code.name)},\n"
        f"    kind: {json.dumps(spec.kind)},\n"
        f"    fix: {json.dumps(spec.fix, ensure_ascii=False)},\n"
        "  },\n"
    )


def render() -> str:
    """The whole module, as source."""
    return HEADER + "".join(render_entry(spec) for spec in ERRORS.values()) + FOOTER


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the module, or compares it; 1 if it is out of date."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    if not parser.parse_args(argv).check:
        TARGET.write_text(render(), encoding="utf-8")
    elif not TARGET.exists() or TARGET.read_text(encoding="utf-8") != render():
        sys.stderr.write(
            f"out of date: {TARGET.name}; run python client/typescript/generate_errors.py\n"
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
