"""Which tenants have enough to run, of all models and on both sides of a link."""

from __future__ import annotations

from carousel_server.core.backlogged import Backlogged


def test_a_tenant_is_backlogged_while_one_model_says_so() -> None:
    backlogged = Backlogged()
    backlogged.set("a", frozenset({"x", "y"}))
    backlogged.set("b", frozenset({"x"}))
    assert backlogged.tenants == {"x", "y"}
    backlogged.set("a", frozenset())
    assert backlogged.tenants == {"x"}
    assert backlogged.at("b") == {"x"}
    assert backlogged.at("a") == backlogged.at("none") == frozenset()


def test_one_is_added_until_its_model_says_more() -> None:
    backlogged = Backlogged()
    backlogged.set("a", frozenset({"x"}))
    backlogged.add("a", "y")
    backlogged.add("b", "z")
    assert backlogged.tenants == {"x", "y", "z"}
    assert backlogged.at("a") == {"x", "y"}
    backlogged.set("a", frozenset())
    assert backlogged.tenants == {"z"}


def test_those_who_watch_see_each_change_once() -> None:
    backlogged, seen = Backlogged(), list[frozenset[str]]()
    backlogged.set("a", frozenset({"x"}))
    end = backlogged.watch(seen.append)
    backlogged.set("b", frozenset({"x"}))
    backlogged.add("a", "x")
    backlogged.set("b", frozenset({"y"}))
    end()
    backlogged.set("b", frozenset())
    assert seen == [{"x"}, {"x", "y"}]


def test_another_processs_count_replaces_all() -> None:
    backlogged = Backlogged()
    backlogged.set_all(frozenset({"x"}))
    backlogged.set_all(frozenset({"y"}))
    assert backlogged.tenants == {"y"}
