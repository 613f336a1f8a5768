"""From a setting to a store, or to two lines that say what is wrong."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from carousel_server.store import (
    MemoryStore,
    StoreError,
    back_up_store,
    check_store,
    open_store,
    opening,
)
from carousel_server.store.backup import Copied
from carousel_server.store.looking import Fact
from carousel_server.store.opening import FORMS


def test_memory() -> None:
    store = open_store("memory", replica="r", lease_ttl_s=10.0)
    assert (store.name, store.lease_ttl_s) == ("memory", math.inf)


@pytest.mark.parametrize("form", ["sqlite:{}", "sqlite://{}", "{}"])
def test_sqlite(form: str, tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    store = open_store(form.format(path), replica="r", lease_ttl_s=10.0)
    assert (store.name, store.lease_ttl_s) == ("sqlite", math.inf)
    assert path.exists()
    store.close()


def test_sqlite_takes_a_path_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, url in (("a.db", "sqlite:a.db"), ("b.db", "b.db"), ("c", "sqlite://c")):
        open_store(url, replica="r", lease_ttl_s=10.0).close()
        assert (tmp_path / name).exists()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "sqlite:",
        "sqlit:x.db",
        "redis:/host/x.db",
        "postgres://u:hunter2@host/db",
        "http://u:hunter2@host/x.db",
        "hunter2",
        "memory:",
        "memory://",
        "unix:/run/redis.sock",
        "Redis://host/0",
    ],
)
def test_what_is_no_store_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(StoreError) as error:
        open_store(url, replica="r", lease_ttl_s=10.0)
    cause, fix = str(error.value).splitlines()
    assert cause
    assert "sqlite:PATH" in fix
    assert "hunter2" not in str(error.value)


def test_the_error_lists_every_form() -> None:
    with pytest.raises(StoreError) as error:
        open_store("postgres://host/db", replica="r", lease_ttl_s=10.0)
    assert all(form.example in str(error.value) for form in FORMS)


def test_a_new_kind_is_one_entry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Opening, checking, copying and looking read the same table."""
    seen: list[str] = []

    def opened(url: str, replica: str, lease_ttl_s: float) -> MemoryStore:
        seen.append(f"open {url} {replica} {lease_ttl_s:g}")
        return MemoryStore(owner=replica)

    def checked(url: str, replica: str, lease_ttl_s: float) -> None:
        seen.append(f"check {url} {replica.partition('-')[0]} {lease_ttl_s:g}")

    def copied(url: str, destination: Path) -> Copied:
        seen.append(f"copy {url} {destination.name}")
        return Copied(1, 2)

    def looked_at(url: str) -> Sequence[Fact]:
        seen.append(f"look {url}")
        return [Fact("store keys", "12")]

    kind = opening.StoreKind(opened, checked, copied, looked_at)
    new = opening.Form("etcd://", "etcd://HOST", kind)
    monkeypatch.setattr(opening, "FORMS", (*FORMS, new))
    open_store("etcd://a", replica="r", lease_ttl_s=3.0).close()
    check_store("etcd://b", lease_ttl_s=4.0)
    assert back_up_store("etcd://c", tmp_path / "copy").sessions == 1
    assert opening.look_at_store("etcd://d")[0].found == "12"
    assert seen == [
        *("open etcd://a r 3", "check etcd://b check 4", "copy etcd://c copy", "look etcd://d")
    ]


@pytest.mark.parametrize("ttl_s", [0.0, -1.0, math.inf, math.nan])
def test_a_lease_lasts_some_time(ttl_s: float) -> None:
    with pytest.raises(StoreError, match="leases cannot last"):
        open_store("redis://localhost", replica="r", lease_ttl_s=ttl_s)


def test_without_the_driver_the_fix_is_named() -> None:
    code = (
        "import sys; sys.modules['redis'] = None\n"
        "from carousel_server.store import open_store\n"
        "open_store('redis://localhost', replica='r', lease_ttl_s=10.0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "the driver for Redis is not installed" in done.stderr
    assert "pip install 'carousel-serving[redis]'" in done.stderr


def test_the_stores_need_no_driver_to_be_imported() -> None:
    code = "import sys, carousel_server.store; sys.exit('redis' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
