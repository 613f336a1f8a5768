"""Tenants as small numbers."""

from __future__ import annotations

from carousel_server.rows.table import Tenancy


def test_a_tenant_has_one_number_while_it_has_rows() -> None:
    tenancy = Tenancy()
    assert [tenancy.enter(name) for name in ("a", "b", "a")] == [0, 1, 0]
    assert dict(tenancy.rows) == {"a": 2, "b": 1}
    assert tenancy.several
    assert [tenancy.number(name) for name in ("a", "b", "c")] == [0, 1, -1]
    assert [tenancy.names[number] for number in (0, 1)] == ["a", "b"]


def test_numbers_come_back_with_the_last_row() -> None:
    tenancy = Tenancy()
    for name in "abc":
        tenancy.enter(name)
    tenancy.leave("b")
    tenancy.leave("a")
    assert not tenancy.several
    assert [tenancy.enter(name) for name in "xyz"] == [0, 1, 3]
    assert tenancy.number("a") == -1
