"""The console: a page, its style, its scripts and its icon, from the package's own files."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""What the page may load and call: this server only. No other page may show it in a frame."""

_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",  # a browser asks each time whether its copy is the newest
}

_PAGE = "index.html"


@dataclass(frozen=True, slots=True)
class Asset:
    """A file of the console.

    Attributes:
        body: its bytes.
        media_type: as in the content-type header.
        tag: its ETag.
    """

    body: bytes
    media_type: str
    tag: str


def assets() -> dict[str, Asset]:
    """All files of the console, by name."""
    found = {}
    for file in files("carousel_server.http").joinpath("console").iterdir():
        suffix = file.name[file.name.rfind(".") :]
        if suffix in _TYPES:
            body = file.read_bytes()
            tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
            found[file.name] = Asset(body, _TYPES[suffix], tag)
    return found


def routes() -> list[BaseRoute]:
    """The page at `/`, and its other files below `/console/`. No token is needed: they hold no data."""
    made: list[BaseRoute] = []
    for name, asset in assets().items():
        path = "/" if name == _PAGE else f"/console/{name}"
        made.append(Route(path, partial(_respond, asset), methods=["GET"]))
    return made


async def _respond(asset: Asset, request: Request) -> Response:
    headers = {**_HEADERS, "etag": asset.tag}
    known = request.headers.get("if-none-match", "")
    if asset.tag in {tag.strip().removeprefix("W/") for tag in known.split(",")}:
        return Response(status_code=304, headers=headers)
    return Response(asset.body, 200, headers, asset.media_type)
