"""`python -m carousel_server --key value …`: starts a server. Every setting is a flag.

`carousel serve` does the same with more help.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from carousel_server.process.config import ConfigError, Settings
from carousel_server.process.config_sources import load_settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a server with the settings of the flags. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m carousel_server", argument_default=argparse.SUPPRESS, allow_abbrev=False
    )
    parser.add_argument("--config", type=Path, default=None, help="TOML file of settings.")
    for name, field in Settings.model_fields.items():
        flag = f"--{name.replace('_', '-')}"
        text = (field.description or "").replace("%", "%%")
        if field.annotation is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, help=text)
        else:
            parser.add_argument(flag, metavar="VALUE", help=text)
    given = vars(parser.parse_args(arguments))
    config_file = given.pop("config")
    try:
        settings, _ = load_settings(given, config_file)
    except ConfigError as error:
        sys.stderr.write(f"carousel: {error}\n")
        return 2
    from carousel_server.process.main import serve

    return serve(settings)


if __name__ == "__main__":
    sys.exit(main())
