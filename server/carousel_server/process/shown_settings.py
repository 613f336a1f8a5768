"""Settings as people may see them: without passwords and digests of tokens."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from .config import Settings

HIDDEN = "***"
_CREDENTIALS = ("username", "password")
"""Options of a Redis URL that say what its userinfo says."""


def shown(settings: Settings) -> dict[str, Any]:
    """Each setting by name, as JSON has it; `HIDDEN` stands where a secret is."""
    values = settings.model_dump(mode="json")
    values["store"] = without_password(settings.store)
    values["tokens"] = dict.fromkeys(settings.tokens, HIDDEN)
    return values


def without_password(url: str) -> str:
    """The URL of a store without user and password; what is no URL stays as it is.

    A URL that cannot be read is hidden as a whole: no one knows where its password is.
    """
    scheme, separator, place = url.partition("://")
    if not separator:
        return url
    try:
        parts = urlsplit(url)
        options = parse_qsl(parts.query, keep_blank_values=True)
    except ValueError:
        return f"{scheme}://{HIDDEN}"
    # All before the last @: a password with an @ or a / that was not percent-encoded is one too.
    path, mark, query = place.partition("?")
    _, at, host = path.rpartition("@")
    path = f"{HIDDEN}@{host}" if at else path
    if mark and any(name in _CREDENTIALS for name, _ in options):
        hidden = [(name, HIDDEN if name in _CREDENTIALS else value) for name, value in options]
        query = urlencode(hidden, safe="*/:")
    return f"{scheme}://{path}{mark}{query}"
