"""Several fake servers of one store in virtual time, and a core that knows them all."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np

from carousel._core.addresses import Addresses
from carousel._core.attach import AttachCore
from carousel._core.effects import Effects
from carousel._core.lane import Lane
from carousel._core.retry import RetryPolicy
from carousel._core.tickets import BindTicket, StepTicket
from carousel._error_bases import CarouselError, ConnectionLostError, ServerUnreachableError
from carousel.testing.refusals import Refusal
from carousel_protos.placement import ranked
from carousel_protos.v1 import carousel_pb2 as pb

from .miniature import OUTPUT_BYTES, MiniServer, StrictStream

ADDRESSES = ("a:1", "b:1", "c:1")

KEEPALIVE_S = 15.0
"""A client gives up a stream to a server that has been silent for so long."""


class Cluster:
    """Time is `now_s`, and passes only in `run`.

    Attributes:
        down: addresses that cannot be reached.
        opened: addresses in the order in which streams were asked for.
        sent: messages by address.
    """

    def __init__(
        self,
        policy: RetryPolicy | None = None,
        durability: int = pb.DURABILITY_ASYNC,
        known: tuple[str, ...] = ADDRESSES,
    ) -> None:
        first = MiniServer(durability, address=ADDRESSES[0])
        others = [MiniServer(address=address, beside=first) for address in ADDRESSES[1:]]
        self.servers = {server.address: server for server in (first, *others)}
        self.all = first.all
        self.addresses = Addresses(known)
        self.core = AttachCore(
            self.addresses,
            policy or RetryPolicy(),
            rng=random.Random(0),
            attach_id=lambda: 100,
        )
        self.now_s = 0.0
        self.down: set[str] = set()
        # Streams to servers that have vanished, and when the client gives each up.
        self.silent: dict[str, float] = {}
        self.streams: dict[str, StrictStream] = {}
        self.opened: list[str] = []
        self.left: list[str] = []
        self.sent: list[tuple[str, pb.AttachRequest]] = []
        self.ended: list[object] = []
        self._openings: dict[str, float] = {}

    def do(self, effects: Effects) -> Effects:
        self.ended.extend(effects.ended)
        for address, requests in effects.send.items():
            for request in requests:
                self.sent.append((address, request))
                if address not in self.silent:
                    self.streams[address].receive(request)
        for address, pause_s in effects.connect.items():
            assert address not in self.streams
            self._openings[address] = self.now_s + pause_s
        for address in effects.leave:
            self.left.append(address)
            self.silent.pop(address, None)
            if address in self.streams:
                self.streams.pop(address).end()
        return effects

    def run(self, until: Callable[[], bool] | None = None, most_s: float = 100.0) -> None:
        """Lets time pass until all is quiet, or the condition holds."""
        end_s = self.now_s + most_s
        while until is None or not until():
            if self._step():
                continue
            due_s = self.core.next_due_s
            known = [*self._openings.values(), *([] if due_s is None else [due_s])]
            known += self.silent.values()
            if not known:
                return
            assert min(known) <= end_s, "it is not quiet in time"
            self.now_s = max(self.now_s, min(known))
            if due_s is not None and due_s <= self.now_s:
                self.do(self.core.due(self.now_s))

    def _step(self) -> bool:
        """One message, or one stream that is opened."""
        for address, stream in list(self.streams.items()):
            if stream.out:
                self.do(self.core.receive(address, stream.out.popleft(), self.now_s))
                return True
        for address, at_s in list(self.silent.items()):
            if at_s <= self.now_s:
                self.break_(address)
                return True
        for address, at_s in list(self._openings.items()):
            if at_s <= self.now_s:
                del self._openings[address]
                self.open_stream(address)
                return True
        return False

    def open_stream(self, address: str) -> None:
        self.opened.append(address)
        if address not in self.down:
            self.streams[address] = self.servers[address].stream()
            self.do(self.core.connected(address))
            return
        self.do(self.core.broken(address, ServerUnreachableError("refused"), self.now_s))

    def break_(self, address: str, error: CarouselError | None = None) -> None:
        """A stream is gone, with all messages in flight."""
        self.silent.pop(address, None)
        self.streams.pop(address).end()
        self.do(self.core.broken(address, error or ConnectionLostError("reset"), self.now_s))

    def kill(self, address: str) -> None:
        """A server is gone, and its sessions are free at once."""
        self.down.add(address)
        self.all.crash(address)
        self.break_(address)

    def vanish(self, address: str) -> None:
        """A server is gone, and its sessions are free at once. Its stream is silent until it breaks."""
        self.down.add(address)
        self.streams[address].is_cut = True
        self.silent[address] = self.now_s + KEEPALIVE_S
        self.all.crash(address)
        self.streams[address].out.clear()

    def bind(self, target: str | pb.OpenSessionRequest) -> BindTicket:
        ticket, effects = self.core.bind(target, now_s=self.now_s)
        self.do(effects)
        return ticket

    def open(self, session_id: str) -> Lane:
        ticket = self.bind(pb.OpenSessionRequest(session_id=session_id))
        self.run()
        assert ticket.error is None
        return ticket.lane

    def submit(self, lanes: list[Lane], *rows: list[int]) -> StepTicket:
        inputs = np.array(rows, "<i4").view(np.uint8).reshape(len(lanes), -1, 4)
        ticket, effects = self.core.submit(lanes, inputs, OUTPUT_BYTES)
        self.do(effects)
        return ticket

    def hand_over(self, session_id: str, address: str = "") -> None:
        self.all.hand_over(self.all.get(session_id), address)

    def refuse(self, address: str, call: str, reason: str, **metadata: object) -> None:
        """A server refuses the next call of a kind."""
        refusal = Refusal(reason, retry_after_s=None, **metadata)
        self.servers[address].injections.waiting[call].append(refusal)

    def kinds(self, address: str) -> list[str]:
        """Of the messages that were sent to a server."""
        return [str(request.WhichOneof("event")) for to, request in self.sent if to == address]

    def binds(self) -> list[tuple[str, bool]]:
        """Where sessions were bound, and whether they were to be taken over."""
        return [(to, one.bind.take_over) for to, one in self.sent if one.HasField("bind")]


def ranking(session_id: str) -> list[str]:
    return ranked(session_id, ADDRESSES)


def session_at(address: str, number: int = 0) -> str:
    """The id of a session whose owner is this server; another one for each number."""
    found = [f"s{n}" for n in range(200) if ranking(f"s{n}")[0] == address]
    return found[number]
