"""Settings on the command line: --set KEY=VALUE."""

from __future__ import annotations

from collections.abc import Iterable

from .exits import usage_error


def assignments(pairs: Iterable[str]) -> dict[str, str]:
    """KEY=VALUE pairs as a mapping; a dash in a key is as good as an underscore.

    Raises:
        CliError: a pair has no "=" or no key.
    """
    values = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise usage_error(f"--set {pair} names no value", "write it as --set KEY=VALUE")
        values[key.strip().replace("-", "_")] = value
    return values
