"""The number of shards of a store in Redis. Its first start sets it for good."""

from __future__ import annotations

from carousel_server.core.errors import CarouselError

from .faults import StoreError
from .redis_keys import Keys, layout_key
from .redis_link import Link
from .redis_target import Target

_OLD = -1
"""The answer of `layout` for a store of a version without it, before its leases are checked."""


def shards_of(link: Link, target: Target, prefix: str) -> int:
    """The number of shards of a store. The link is closed if this fails.

    Raises:
        StoreError: the URL asks for another number, a server of an older version runs on the store, or the
            store does not answer.
    """
    try:
        return _shards(link, target, prefix)
    except CarouselError as error:
        link.close()
        raise StoreError(f"{target.shown}: {error.message}\ntry again when it answers") from None
    except StoreError:
        link.close()
        raise


def _shards(link: Link, target: Target, prefix: str) -> int:
    found = _asked(link, target, prefix, is_checked=False)
    if found == _OLD:
        _check_no_old_server(link, prefix)
        found = _asked(link, target, prefix, is_checked=True)
    if target.shards and target.shards != found:
        raise StoreError(
            f"the store was made with shards={found}, and its URL says {target.shards}\n"
            f"write shards={found}, or leave it out: the number never changes"
        )
    return found


def _asked(link: Link, target: Target, prefix: str, *, is_checked: bool) -> int:
    keys = [layout_key(prefix), Keys([prefix]).shards[0].expiry]
    arguments = (target.shards or link.shards, int(is_checked))
    return int(link.call_all([("layout", keys, arguments)])[0])


def _check_no_old_server(link: Link, prefix: str) -> None:
    """Older servers have their leases in keys of their own. The two versions do not see each other's."""
    for key in link.keys_like(f"{{{prefix}}}:lease:*"):
        replica = key.decode(errors="replace").partition(":lease:")[2]
        raise StoreError(
            f"the replica {replica!r} of an older version runs on this store\n"
            "stop all servers of that version first; their sessions stay"
        )
