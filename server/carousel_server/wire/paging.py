"""Pages of lists: a token is the last key of the page before, made opaque."""

from __future__ import annotations

import base64
import binascii

from .errors import invalid

MAX_PAGE = 1000
DEFAULT_PAGE = 100
_MAX_TOKEN_CHARACTERS = 1024


def check_page(page_size: int, token: str) -> tuple[int, str]:
    """How many entries to return, and the key after which they begin.

    Raises:
        CarouselError: FIELD_INVALID.
    """
    if page_size > MAX_PAGE:
        raise invalid("page_size", f"must be at most {MAX_PAGE}, but is {page_size}")
    if len(token) > _MAX_TOKEN_CHARACTERS:
        raise invalid("page_token", "is none of this server's")
    try:
        after = base64.b64decode(token.encode("ascii"), b"-_", validate=True).decode()
    except (binascii.Error, UnicodeError):
        raise invalid("page_token", "is none of this server's") from None
    return page_size or DEFAULT_PAGE, after


def page_token(last_key: str) -> str:
    """The token of the page that begins after `last_key`; "" for "" (no further page)."""
    return base64.urlsafe_b64encode(last_key.encode()).decode()
