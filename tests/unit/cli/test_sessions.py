"""`carousel sessions` where several replicas have sessions."""

import json

import numpy as np
import pytest

import carousel
from carousel.cli.main import run
from carousel.testing import FakeModel, FakeServer

SUM = FakeModel("sum", step=lambda x, s: (s + x, s + x), features=1)
ROW = np.ones(1, np.float32)


@pytest.fixture
def pair():
    """Two replicas of one store. The first one runs "far", and the second one "near"."""
    with (
        FakeServer(SUM, durable=True, commits=False) as there,
        FakeServer(beside=there) as here,
        carousel.Client(there.target) as a,
        carousel.Client(here.target) as b,
    ):
        far, near = (
            client.session(SUM.name, session_id=name) for client, name in ((a, "far"), (b, "near"))
        )
        far.step(ROW)
        near.step(ROW)
        there.commit()
        far.step(ROW)
        yield there, here


def facts(out):
    """The lines of a record, by their first word."""
    return dict(words for line in out.splitlines() if len(words := line.split()) == 2)


def shown(capsys, *arguments):
    assert run(list(arguments)) == 0
    return capsys.readouterr()


def test_a_session_of_another_replica_is_shown_with_its_holder(pair, capsys):
    there, here = pair
    out, err = shown(capsys, "sessions", "show", "far", "--server", here.target)
    seen = facts(out)
    assert (seen["holder"], seen["applied"], seen["durable"]) == (there.target, "1", "1")
    assert "those of its last commit" in err
    out, err = shown(capsys, "sessions", "show", "far", "--server", there.target)
    assert facts(out)["applied"] == "2"
    assert err == ""


def test_a_list_has_the_holder_where_one_is_elsewhere(pair, capsys):
    there, here = pair
    out, err = shown(capsys, "sessions", "list", "--server", here.target)
    assert out.split()[2] == "holder"
    assert there.target in out
    assert "those of its last commit" in err
    records = json.loads(
        shown(capsys, "sessions", "list", "--server", here.target, "-o", "json").out
    )
    assert {one["id"]: one["holder"] for one in records} == {"far": there.target, "near": ""}


def test_a_list_of_one_server_has_no_holders(capsys):
    with FakeServer(SUM) as alone, carousel.Client(alone.target) as client:
        client.session(SUM.name, session_id="s")
        out, err = shown(capsys, "sessions", "list", "--server", alone.target)
    assert "holder" not in out
    assert err == ""
