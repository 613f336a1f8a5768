"""URLs of Redis: what they name, and that no error repeats a password."""

from __future__ import annotations

import pytest
import redis

from carousel_server.store import StoreError
from carousel_server.store.opening import FORMS, kind_of
from carousel_server.store.redis_target import Kind, read_url

SECRET = "hunter2"


def test_a_single_server() -> None:
    target = read_url(f"rediss://u:{SECRET}@host:7/3?ssl_cert_reqs=none&shards=4")
    assert (target.kind, target.shards, target.places) == (Kind.SINGLE, 4, ())
    assert target.shown == "redis at host:7"
    assert target.options["connection_class"] is redis.SSLConnection
    assert (target.options["username"], target.options["password"]) == ("u", SECRET)
    assert target.options["db"] == 3
    assert "shards" not in target.options


def test_a_socket() -> None:
    target = read_url("unix:///run/redis.sock?db=2")
    assert (target.options["path"], target.options["db"]) == ("/run/redis.sock", 2)
    assert target.shown == "redis at /run/redis.sock"


def test_a_cluster() -> None:
    target = read_url(f"rediss+cluster://u:{SECRET}@a:1,b,[::1]:3/?shards=8&ssl_cert_reqs=none")
    assert (target.kind, target.shards) == (Kind.CLUSTER, 8)
    assert target.places == (("a", 1), ("b", 6379), ("::1", 3))
    assert target.options["connection_class"] is redis.SSLConnection
    assert target.options["password"] == SECRET
    assert not {"host", "port", "shards"} & set(target.options)
    assert SECRET not in target.shown


def test_sentinels() -> None:
    url = f"redis+sentinel://:{SECRET}@a,b:2/my%2Dname/5?sentinel_password=s2&sentinel_username=u2"
    target = read_url(url)
    assert (target.kind, target.service) == (Kind.SENTINEL, "my-name")
    assert target.places == (("a", 26379), ("b", 2))
    assert (target.options["password"], target.options["db"]) == (SECRET, 5)
    assert target.sentinel_options == {"username": "u2", "password": "s2"}


def test_tls_to_sentinels_is_tls_to_the_primary_too() -> None:
    target = read_url("rediss+sentinel://a/name?ssl_ca_certs=/ca.pem")
    assert target.sentinel_options == {"ssl": True, "ssl_ca_certs": "/ca.pem"}
    assert (target.options["ssl"], target.options["ssl_ca_certs"]) == (True, "/ca.pem")
    assert "connection_class" not in target.options


@pytest.mark.parametrize(
    ("url", "fix"),
    [
        (f"redis+cluster://:{SECRET}@", "redis+cluster://user"),
        (f"redis+cluster://:{SECRET}@a:x", "redis+cluster://user"),
        (f"redis+cluster://:{SECRET}@a,,b", "redis+cluster://user"),
        (f"redis+cluster://:{SECRET}@a/3", "redis+cluster://user"),
        (f"redis+cluster://:{SECRET}@a?{SECRET}=1", "redis+cluster://user"),
        (f"redis+cluster://:{SECRET}@a?shards=many", "redis+cluster://user"),
        (f"redis+sentinel://:{SECRET}@a:1", "redis+sentinel://user"),
        (f"redis+sentinel://:{SECRET}@a:1/", "redis+sentinel://user"),
        (f"redis+sentinel://:{SECRET}@a:1/name/x", "redis+sentinel://user"),
        (f"redis://:{SECRET}@a:x/0", "redis://user"),
    ],
)
def test_what_cannot_be_read_is_not_repeated(url: str, fix: str) -> None:
    with pytest.raises(StoreError) as error:
        read_url(url)
    assert "URL cannot be read" in str(error.value)
    assert fix in str(error.value)
    assert SECRET not in str(error.value)


@pytest.mark.parametrize("shards", [0, -1, 257])
def test_the_number_of_shards_is_bounded(shards: int) -> None:
    with pytest.raises(StoreError, match=f"cannot have {shards} shards"):
        read_url(f"redis+cluster://a?shards={shards}")


def test_every_form_of_redis_can_be_read() -> None:
    for form in FORMS:
        if form.start.startswith(("redis", "unix")):
            url = form.example.replace("PORT", "1")
            assert read_url(url).kind in Kind
            assert kind_of(url) is form.kind
