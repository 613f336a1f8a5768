"""Names of the keys in Redis. The keys of a session have one hash tag, so a cluster has them in one place."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from itertools import count
from typing import NamedTuple

from redis.crc import key_slot

from carousel_server.core.store import SessionKey

_SLOTS = 16_384


class Shard(NamedTuple):
    """The keys below one hash tag. `prefix` begins them all."""

    prefix: str

    @property
    def expiry(self) -> str:
        """Sorted set of the sessions by the instant at which they may expire."""
        return f"{self.prefix}expiry"

    @property
    def replicas(self) -> str:
        """Hash of the replicas' leases and announcements."""
        return f"{self.prefix}replicas"

    def session(self, key: SessionKey) -> str:
        """Hash of a session."""
        return f"{self.prefix}session:{name_of(key)}"

    def ended(self, key: SessionKey) -> str:
        """Why a session ended."""
        return f"{self.prefix}ended:{name_of(key)}"

    def ids(self, tenant: str) -> str:
        """Sorted set of a tenant's session ids."""
        return f"{self.prefix}ids:{tenant}"

    def mailbox(self, replica: str) -> str:
        """List of the requests for sessions of a replica."""
        return f"{self.prefix}mail:{replica}"

    def all_of(self, key: SessionKey) -> list[str]:
        """The keys of a session that exist as long as it does: session, ended, ids, expiry."""
        return [self.session(key), self.ended(key), self.ids(key.tenant), self.expiry]


class Keys:
    """All keys of a store. `shards` has one entry for each hash tag."""

    def __init__(self, tags: Sequence[str]) -> None:
        self.shards = tuple(Shard(f"{{{tag}}}:") for tag in tags)

    def of(self, key: SessionKey) -> Shard:
        """The shard of a session, by the hash of its name."""
        return self._shard(name_of(key))

    def mailbox(self, replica: str) -> str:
        """The mailbox of a replica, in one shard only, so that a look into it is one call."""
        return self._shard(replica).mailbox(replica)

    def _shard(self, name: str) -> Shard:
        # A checksum would put the names "s-1", "s-2" and so on into few shards.
        number = int.from_bytes(sha256(name.encode()).digest()[:8], "big")
        return self.shards[number % len(self.shards)]


def name_of(key: SessionKey) -> str:
    """A session's name in keys: "<tenant>/<id>"."""
    assert "/" not in key.tenant, "a tenant has no slash"
    return f"{key.tenant}/{key.id}"


def key_of(name: str) -> SessionKey:
    """The session of a name."""
    tenant, _, session_id = name.partition("/")
    return SessionKey(tenant, session_id)


def layout_key(prefix: str) -> str:
    """The key with the number of shards. It is in the place of a store with one shard."""
    return f"{{{prefix}}}:layout"


def tags_of(prefix: str, shards: int) -> list[str]:
    """The hash tags of a store. Their slots are evenly spread, and so are they over a cluster's servers."""
    if shards == 1:
        return [prefix]
    return [_tag(f"{prefix}:{number}", number, shards) for number in range(shards)]


def _tag(name: str, number: int, shards: int) -> str:
    """The first tag of a name whose slot is in the share `number` of all slots."""
    candidates = (f"{name}.{extra}" for extra in count())
    return next(one for one in candidates if key_slot(one.encode()) * shards // _SLOTS == number)
