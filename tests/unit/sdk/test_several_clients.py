"""Both clients on several servers of one store: what users see when sessions move."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import carousel
from carousel._core.retry import RetryPolicy
from carousel.testing import FakeServer
from carousel_protos.placement import ranked

from .support import MODELS, client_of, opened, sums

QUICK = RetryPolicy(first_delay_s=0.001)
ROWS = np.ones((40, 2), np.float32)


@pytest.fixture
def servers() -> Iterator[list[FakeServer]]:
    with (
        FakeServer(*MODELS, chunk_steps=3, durable=True) as first,
        FakeServer(chunk_steps=3, durable=True, beside=first) as second,
        FakeServer(chunk_steps=3, durable=True, beside=first) as third,
    ):
        yield [first, second, third]


@pytest.fixture(params=["sync", "async"])
def make_client(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    made = []
    with asyncio.Runner() as runner:

        def make(target: str, **options: Any) -> Any:
            options = {"timeout_s": 30.0, "retries": QUICK, **options}
            made.append(client_of(request.param, target, runner, **options))
            return made[-1]

        yield make
        for client in made:
            client.close()


@pytest.fixture
def client(make_client: Callable[..., Any], servers: list[FakeServer]) -> Any:
    return make_client(target_of(servers))


def target_of(servers: list[FakeServer]) -> str:
    return ",".join(server.target for server in servers)


def owner_of(servers: list[FakeServer], session_id: str) -> FakeServer:
    by_target = {server.target: server for server in servers}
    return by_target[ranked(session_id, list(by_target))[0]]


def holder_of(servers: list[FakeServer], session_id: str) -> FakeServer:
    holder = servers[0]._services.sessions.get(session_id).holder
    return next(server for server in servers if server.target == holder)


def test_sessions_are_at_their_owners(client: Any, servers: list[FakeServer]) -> None:
    sessions = [opened(client.session("sum", session_id=f"s{n}")) for n in range(12)]
    for session in sessions:
        np.testing.assert_array_equal(session.steps(ROWS), sums(ROWS))
        assert holder_of(servers, session.id) is owner_of(servers, session.id)
        assert session.info().applied == len(ROWS)
    statistics = client.statistics()
    assert (statistics.moves, statistics.redirects, statistics.reconnects) == (0, 0, 0)


def test_a_session_moves_while_it_streams(client: Any, servers: list[FakeServer]) -> None:
    outputs = []
    with client.session("sum", session_id="s") as session:
        for number, output in enumerate(session.stream(iter(ROWS), ahead=4)):
            outputs.append(output)
            if number % 10 == 5:
                there = servers[number // 10 % len(servers)]
                if there is not holder_of(servers, "s"):
                    servers[0].hand_over("s", there)
    np.testing.assert_array_equal(outputs, sums(ROWS))
    statistics = client.statistics()
    assert statistics.moves >= 2
    assert len(statistics.move_pauses_s) == statistics.moves
    assert all(pause_s >= 0 for pause_s in statistics.move_pauses_s)


def test_a_batch_over_all_servers_survives_the_death_of_one(
    client: Any, servers: list[FakeServer]
) -> None:
    sessions = [opened(client.session("sum", session_id=f"s{n}")) for n in range(12)]
    batch = client.batch(sessions)
    rows = np.ones((12, 5, 2), np.float32)
    first = batch.steps(rows)
    servers[0].stop()
    second = batch.steps(rows)
    for place in range(12):
        expected = sums(np.ones((10, 2), np.float32))
        np.testing.assert_array_equal(np.concatenate([first[place], second[place]]), expected)
    assert all(holder_of(servers, session.id) is not servers[0] for session in sessions)


def test_a_server_that_drains_costs_no_error(client: Any, servers: list[FakeServer]) -> None:
    sessions = [opened(client.session("sum", session_id=f"s{n}")) for n in range(6)]
    for server in servers:
        for session in sessions:
            session.step([1, 1])
        server.drain()
    for session in sessions:
        assert session.step([1, 1]).tolist() == [8, 1]


def test_a_text_in_a_session_goes_on_at_another_server(
    client: Any, servers: list[FakeServer]
) -> None:
    with client.session("letters", session_id="s") as session:
        tokens = iter(session.generate("a", max_tokens=20, temperature=0.0))
        text = next(tokens).text
        there = next(one for one in servers if one is not holder_of(servers, "s"))
        servers[0].hand_over("s", there)
        for server in servers:
            if server is not there:
                server.break_streams()
        text += "".join(token.text for token in tokens)
        assert text == "bcdefghijklmnopqrstu"
        assert session.generate(None, max_tokens=2, temperature=0.0).text() == "vw"


def test_another_client_is_redirected_to_the_holder(
    make_client: Callable[..., Any], servers: list[FakeServer]
) -> None:
    first, second = make_client(target_of(servers)), make_client(target_of(servers))
    session = opened(first.session("sum", session_id="s"))
    session.step([1, 1])
    there = next(one for one in servers if one is not owner_of(servers, "s"))
    servers[0].hand_over("s", there)
    session.step([1, 1])
    assert second.session_info("s").applied == 2
    assert second.session_info("s").applied == 2, "the owner is remembered"
    refused = owner_of(servers, "s").calls().count("GetSession")
    assert refused == 1
    attached = opened(second.attach("s"))
    assert attached.step([1, 1]).tolist() == [6, 1]
    assert second.statistics().redirects == 1
    assert holder_of(servers, "s") is there


def test_a_session_is_read_where_it_runs(
    make_client: Callable[..., Any], servers: list[FakeServer]
) -> None:
    """Not only its last commit, as another server has it."""
    every, one = make_client(target_of(servers)), make_client(owner_of(servers, "s").target)
    session = opened(every.session("sum", session_id="s"))
    session.step([1, 1])
    there = next(one for one in servers if one is not owner_of(servers, "s"))
    there._services._commits = False
    servers[0].hand_over("s", there)
    session.step([1, 1])
    seen = one.session_info("s")
    assert (seen.holder, seen.applied, seen.durable, seen.ack) == (there.target, 1, 1, 0)
    seen = every.session_info("s")
    assert (seen.holder, seen.applied, seen.durable) == ("", 2, 1)
    assert [listed.holder for listed in one.sessions()] == [there.target]
    assert holder_of(servers, "s") is there, "reading moves nothing"


def test_an_owner_that_is_gone_is_not_remembered(
    make_client: Callable[..., Any], servers: list[FakeServer]
) -> None:
    """Else a call would go to it first each time that its pause is over, for ever."""
    first, second = make_client(target_of(servers)), make_client(target_of(servers))
    session = opened(first.session("sum", session_id="s"))
    session.step([1, 1])
    there = next(one for one in servers if one is not owner_of(servers, "s"))
    servers[0].hand_over("s", there)
    session.step([1, 1])
    assert second.session_info("s").applied == 2
    remembered = second._replicas._owners
    assert dict(remembered) == {"s": there.target}
    servers[0].hand_over("s", owner_of(servers, "s"))
    there.stop()
    assert second.session_info("s").applied == 2
    assert dict(remembered) == {}


def test_calls_without_a_session_pass_over_a_server_that_is_gone(
    client: Any, servers: list[FakeServer]
) -> None:
    servers[1].stop()
    for _ in range(6):
        assert client.health() is carousel.Health.SERVING
        assert client.model("sum").name == "sum"
    assert client.infer("sum", ROWS).shape == (40, 2)
    assert client.generate("letters", "a", max_tokens=3, temperature=0.0).text() == "bcd"
    called = [len(server.calls()) for server in (servers[0], servers[2])]
    assert min(called) > 0, "they are spread"


def test_forks_and_imports_open_sessions_too(client: Any, servers: list[FakeServer]) -> None:
    with client.session("sum", session_id="s") as session:
        session.step([1, 1])
        with opened(session.fork(session_id="copy")) as copy:
            assert copy.step([1, 1]).tolist() == [4, 1]
        with opened(client.import_session(session.export(), session_id="again")) as again:
            assert again.step([1, 1]).tolist() == [4, 1]


def test_no_server_at_all_is_said_in_time(make_client: Callable[..., Any]) -> None:
    targets = []
    for _ in range(2):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            targets.append(f"127.0.0.1:{listener.getsockname()[1]}")
    client = make_client(",".join(targets), timeout_s=5.0)
    with pytest.raises(carousel.ServerUnreachableError):
        opened(client.session("sum"))


def test_a_server_that_accepts_and_is_silent_is_left_for_another(
    make_client: Callable[..., Any], servers: list[FakeServer]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        known = [f"127.0.0.1:{silent.getsockname()[1]}", servers[0].target]
        client = make_client(",".join(known), timeout_s=60.0)
        mine = next(f"s{n}" for n in range(100) if ranked(f"s{n}", known)[0] == known[0])
        with client.session("sum", session_id=mine) as session:
            assert session.step([1, 1]).tolist() == [2, 1]


def test_each_lost_server_is_told_once(
    client: Any, servers: list[FakeServer], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="carousel")
    sessions = [opened(client.session("sum", session_id=f"s{n}")) for n in range(9)]
    for session in sessions:
        session.step([1, 1])
    servers[0].stop()
    for session in sessions:
        assert session.step([1, 1]).tolist() == [4, 1]
    told = [record.getMessage() for record in caplog.records if record.name == "carousel"]
    assert [text.partition(" and ")[0] for text in told] == [
        f"lost the server at {servers[0].target}"
    ]


class Names:
    """A name service of the test's own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.found: list[str] = []
        self.asked = threading.Event()
        self._real = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self._answer)

    def _answer(self, host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        if host != "carousel-headless":
            return self._real(host, port, *args, **kwargs)
        self.asked.set()
        if not self.found:
            raise socket.gaierror(-2, "Name or service not known")
        kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        return [(*kind, (address, port)) for address in self.found]

    def set(self, found: list[str], client: Any) -> None:
        """Other addresses, and the client has asked since. An asyncio client asks while it is used."""
        self.found = found
        for _ in range(3):  # the first may have begun before, and the last has not ended
            self.asked.clear()
            while not self.asked.is_set():
                client.health()


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    return Names(monkeypatch)


def test_servers_behind_a_name_come_and_go(
    make_client: Callable[..., Any], names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("_async", "_sync"):
        monkeypatch.setattr(f"carousel.{module}.refresher.PERIOD_S", 0.2)
        monkeypatch.setattr(f"carousel.{module}.refresher.SHORTEST_PAUSE_S", 0.1)
    with FakeServer(*MODELS, durable=True) as first:
        port = first.target.rpartition(":")[2]
        names.found = ["127.0.0.1"]
        client = make_client(f"dns:///carousel-headless:{port}", timeout_s=60.0)
        old = [opened(client.session("sum", session_id=f"s{n}")) for n in range(8)]
        with FakeServer(durable=True, beside=first, address=f"127.0.0.2:{port}") as second:
            names.set(["127.0.0.1", "127.0.0.2"], client)
            new = [opened(client.session("sum", session_id=f"t{n}")) for n in range(12)]
            both = [first, second]
            assert all(holder_of(both, session.id) is first for session in old)
            for session in new:
                assert holder_of(both, session.id) is owner_of(both, session.id)
            names.set([], client)  # the name service is away: the servers that are known stay
            assert [session.step([1, 1])[0] for session in [*old, *new]] == [2] * 20
            names.set(["127.0.0.2"], client)
            assert [session.step([1, 1])[0] for session in old] == [4] * 8
            assert all(holder_of(both, session.id) is first for session in old), "in use"
            first.stop()
            assert [session.step([1, 1])[0] for session in old] == [6] * 8
            assert all(holder_of(both, session.id) is second for session in [*old, *new])


def test_a_name_that_cannot_be_looked_up_is_said(
    make_client: Callable[..., Any], names: Names
) -> None:
    client = make_client("dns:///carousel-headless:50051", timeout_s=2.0)
    with pytest.raises(carousel.ServerUnreachableError, match="carousel-headless cannot be"):
        client.models()
