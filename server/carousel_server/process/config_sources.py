"""Where settings come from: command line > environment (`CAROUSEL_…`) > TOML file > default.

An unknown key is an error that names the nearest setting. Variables that Kubernetes sets for a Service are
ignored.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from pydantic import ValidationError

from .config import PREFIX, ConfigError, Settings

CONFIG_VARIABLE = "CAROUSEL_CONFIG"
"""The variable that names the settings file, if the command line does not."""

NOT_SETTINGS = frozenset(
    {
        *(CONFIG_VARIABLE, "CAROUSEL_SERVER", "CAROUSEL_TOKEN", "CAROUSEL_FAILPOINT"),
        *("CAROUSEL_TLS", "CAROUSEL_CA", "CAROUSEL_CERT", "CAROUSEL_KEY", "CAROUSEL_SERVER_NAME"),
    }
)
"""Variables with our prefix that are not settings: of the client's commands, and of tests (failpoints)."""


_LISTS = ("allow_custom", "http_cors_origins")
"""Settings that are lists of words."""

_TABLES = {
    "tokens": '{"tenant": "sha256 in hex"}',
    "certificates": '{"name in a certificate": "tenant"}',
}
"""Settings that are tables, each with an example as JSON."""


class Source(StrEnum):
    """Where a setting's value comes from."""

    DEFAULT = "default"
    FILE = "file"
    ENVIRONMENT = "environment"
    COMMAND_LINE = "command line"


def load_settings(
    cli: Mapping[str, object] | None = None,
    config_file: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> tuple[Settings, dict[str, Source]]:
    """Merges all sources.

    Args:
        cli: settings given on the command line, by name.
        config_file: TOML file. If None, CAROUSEL_CONFIG can name one.
        environment: variables. None uses those of the process.

    Returns:
        The settings, and the source of each value.

    Raises:
        ConfigError: an unknown key, a value out of range, or a file that cannot be read.
    """
    variables = os.environ if environment is None else environment
    if config_file is None and CONFIG_VARIABLE in variables:
        config_file = Path(variables[CONFIG_VARIABLE])
    sources: dict[Source, Mapping[str, object]] = {
        Source.FILE: {} if config_file is None else _read_file(config_file),
        Source.ENVIRONMENT: _read_environment(variables),
        Source.COMMAND_LINE: cli or {},
    }
    values: dict[str, Any] = {}
    provenance = dict.fromkeys(Settings.model_fields, Source.DEFAULT)
    for source, given in sources.items():
        _check_keys(source, given)
        for key, value in given.items():
            values[key] = _structured(key, value)
            provenance[key] = source
    try:
        return Settings(**values), provenance
    except ValidationError as error:
        raise ConfigError(_explain(error, provenance)) from error


def _read_file(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}\nname a TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}\ncorrect it there") from error


def _read_environment(variables: Mapping[str, str]) -> dict[str, object]:
    others = NOT_SETTINGS.union(service_variables(variables, PREFIX))
    return {
        name.removeprefix(PREFIX).lower(): value
        for name, value in variables.items()
        if name.startswith(PREFIX) and name not in others
    }


def _check_keys(source: Source, keys: Iterable[str]) -> None:
    """Refuses keys that are no settings. Such a key is a typing error or an old name."""
    for key in keys:
        if key in Settings.model_fields:
            continue
        shown = PREFIX + key.upper() if source is Source.ENVIRONMENT else key
        near = difflib.get_close_matches(key, Settings.model_fields, n=1)
        fix = f"did you mean {near[0]}?" if near else "see: carousel config show"
        raise ConfigError(f"unknown setting {shown} ({source})\n{fix}")


def _structured(key: str, value: object) -> object:
    """The value of a list or table that is text (environment, --set): JSON, or items with commas."""
    if key not in (*_TABLES, *_LISTS) or not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        if key in _LISTS:
            return tuple(part.strip() for part in value.split(",") if part.strip())
        raise ConfigError(f"{key} is not a JSON object\nwrite it as {key}={_TABLES[key]}") from None


def _explain(error: ValidationError, provenance: Mapping[str, Source]) -> str:
    """The first fault, as cause and fix. It has no values, because some are secrets."""
    fault, *others = error.errors(include_url=False, include_input=False)
    if not fault["loc"]:
        cause, _, fix = fault["msg"].removeprefix("Value error, ").partition(": ")
        return f"{cause}\n{fix or 'correct one of them'}"
    key = str(fault["loc"][0])
    # A setting of two kinds, such as N or auto, has a fault for each. The second kind is a word.
    words = [
        other["msg"]
        for other in others
        if other["loc"][:1] == (key,) and other["type"] == "literal_error"
    ]
    message = ", or ".join(_sentence(one) for one in (fault["msg"], *words))
    source = provenance.get(key, Source.DEFAULT)
    meaning = Settings.model_fields[key].description
    return f"setting {key} ({source}): {message}\nset another value. It means: {meaning}"


def _sentence(message: str) -> str:
    """A message of pydantic's, as the rest of a line."""
    message = message.removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


_LINK = re.compile(r"(?:tcp|udp|sctp)://.+", re.IGNORECASE)
_OF_A_PORT = re.compile(r".*_PORT_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?")
_OF_A_SERVICE = re.compile(r"(.*_SERVICE)_(?:HOST|PORT(?:_[A-Z0-9_]+)?)")


def service_variables(variables: Mapping[str, str], prefix: str) -> list[str]:
    """Variables with our prefix that Kubernetes or Docker has set for a service, sorted by name.

    A Service named `carousel` gives CAROUSEL_PORT=tcp://10.0.0.1:50051, CAROUSEL_SERVICE_HOST and others. So
    NAME_PORT counts only if it has such an address, and NAME_SERVICE_… only if HOST and PORT are both set.
    """
    return sorted(
        name
        for name, value in variables.items()
        if name.startswith(prefix) and _describes_a_service(name, value, variables)
    )


def _describes_a_service(name: str, value: str, variables: Mapping[str, str]) -> bool:
    if name.endswith("_PORT") and _LINK.fullmatch(value):
        return True
    if _OF_A_PORT.fullmatch(name):
        return True
    service = _OF_A_SERVICE.fullmatch(name)
    return service is not None and {f"{service[1]}_HOST", f"{service[1]}_PORT"} <= variables.keys()


HIDDEN = "***"
_CREDENTIALS = ("username", "password")
"""Options of a Redis URL that can have user and password."""


def shown(settings: Settings) -> dict[str, Any]:
    """Each setting by name, as in JSON. Secrets are replaced by `HIDDEN`."""
    values = settings.model_dump(mode="json")
    values["store"] = without_password(settings.store)
    values["tokens"] = dict.fromkeys(settings.tokens, HIDDEN)
    return values


def without_password(url: str) -> str:
    """The URL of a store without user and password. Text that is not a URL is unchanged.

    A URL that cannot be parsed is hidden as a whole, since its password could be anywhere.
    """
    scheme, separator, place = url.partition("://")
    if not separator:
        return url
    try:
        parts = urlsplit(url)
        options = parse_qsl(parts.query, keep_blank_values=True)
    except ValueError:
        return f"{scheme}://{HIDDEN}"
    # All before the last @, because a password may have an @ or a / that is not percent-encoded.
    path, mark, query = place.partition("?")
    _, at, host = path.rpartition("@")
    path = f"{HIDDEN}@{host}" if at else path
    if mark and any(name in _CREDENTIALS for name, _ in options):
        hidden = [(name, HIDDEN if name in _CREDENTIALS else value) for name, value in options]
        query = urlencode(hidden, safe="*/:")
    return f"{scheme}://{path}{mark}{query}"
