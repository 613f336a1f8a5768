"""Requests to Redis that look at many sessions of all shards: lists, and the search for expired ones."""

from __future__ import annotations

from collections.abc import Sequence

from carousel_server.core.errors import CarouselError
from carousel_server.core.store import Record, SessionKey

from . import redis_answers
from .redis_keys import Keys, Shard, key_of
from .redis_link import Link
from .redis_node import Answers, Call

_PAGE = 256
"""Sessions that a list reads at once, about."""
_LEAST_PAGE = 16
_RECHECK_S = 10.0
"""How soon a sweep looks again at a session that is old, but held."""


class Scans:
    """Lists and sweeps over the shards of a store. Errors are those of the link."""

    def __init__(self, keys: Keys, link: Link, replica: str) -> None:
        self._keys = keys
        self._link = link
        self._replica = replica

    def listed(self, tenant: str, after: str, limit: int, model: str) -> list[Record]:
        """See `Store.list`. Sessions that begin or end meanwhile may be in it or not."""
        records: list[Record] = []
        while len(records) < limit:
            ids, more = self._page(tenant, after)
            found = self._read([SessionKey(tenant, one) for one in ids])
            records += [one for one in found if model in ("", one.session.model)]
            if not more:
                break
            after = ids[-1]
        return records[:limit]

    def _page(self, tenant: str, after: str) -> tuple[Sequence[str], bool]:
        """The next ids of all shards, sorted, and whether there may be more.

        Beyond the last id of a shard's page, that shard may have others that come before those of the
        other shards. So the page ends at the first such id.
        """
        shards = self._keys.shards
        size = max(_PAGE // len(shards), _LEAST_PAGE)
        pages = self._link.call_all(
            [("ids", [shard.ids(tenant)], (after, size)) for shard in shards]
        )
        ends = [page[-1] for page in pages if len(page) == size]
        end = min(ends, default=None)
        ids = sorted(one for page in pages for one in page if end is None or one <= end)
        return [one.decode() for one in ids], end is not None

    def _read(self, keys: Sequence[SessionKey]) -> list[Record]:
        """The facts of those sessions that are open."""
        calls: list[Call] = []
        for key in keys:
            shard = self._keys.of(key)
            calls.append(("read", [shard.session(key), shard.ended(key), shard.replicas], ()))
        records = []
        for key, answer in zip(keys, self._link.call_all(calls), strict=True):
            try:
                records.append(redis_answers.read(key, answer, self._replica))
            except CarouselError:
                continue
        return records

    def sweep(self, now_unix_s: float, limit: int) -> int:
        """See `Store.sweep`. The server itself forgets reasons."""
        # Shards that do not answer are left out.
        ended, shards = 0, list(self._keys.shards)
        while shards and ended < limit:
            room = limit - ended
            due = self._answered(
                [("due", [shard.expiry], (repr(now_unix_s), room)) for shard in shards], []
            )
            looked_at = [
                (shard, key_of(name.decode()))
                for shard, names in zip(shards, due, strict=True)
                for name in names
            ][:room]
            calls = [_expire(shard, key, now_unix_s) for shard, key in looked_at]
            ended += sum(self._answered(calls, 0))
            # Sessions that are still held move to a later place, so each turn gets further.
            full = sum(map(len, due)) > len(looked_at)
            shards = [
                shard
                for shard, names in zip(shards, due, strict=True)
                if names and (full or len(names) == room)
            ]
        return ended

    def _answered(self, calls: Sequence[Call], otherwise: object) -> Answers:
        """The answers, with `otherwise` in the place of errors."""
        answers = self._link.call_each(calls)
        faults = [one for one in answers if isinstance(one, CarouselError)]
        if faults and len(faults) == len(calls):
            raise faults[0]
        return [otherwise if isinstance(one, CarouselError) else one for one in answers]


def _expire(shard: Shard, key: SessionKey, now_unix_s: float) -> Call:
    arguments = (f"{key.tenant}/{key.id}", key.id, repr(now_unix_s), repr(now_unix_s + _RECHECK_S))
    return "expire", [*shard.all_of(key), shard.replicas], arguments
