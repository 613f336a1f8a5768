"""A client that keeps to the rules and waits for nothing: it gives back what is being fetched for it."""

from __future__ import annotations

from carousel_protos.v1 import carousel_pb2 as pb

from .model import NAME
from .raw import RawClient, Script

SESSION = "hasty"
_REST_S = 0.6
"""After so long its session is parked, mostly."""


class Hasty(RawClient):
    """Feeds its session, gives it back and has it bound anew, all in one breath."""

    def script(self) -> Script:
        """See `RawClient`."""
        self.say(pb.AttachRequest(hello=pb.Hello(client="hasty")))
        open_request = pb.OpenSessionRequest(model=NAME, session_id=SESSION, durability=2, seed=1)
        bind = pb.Bind(handle=1, open=open_request, attach_id=1)
        self.say(pb.AttachRequest(bind=bind))
        if (yield None) != "bound 1 0":
            return
        self.say_block(1, 1, 3)
        if not (yield None).startswith("outputs 1"):
            return
        yield _REST_S
        self.say_block(1, 2, 5)
        self.say(pb.AttachRequest(unbind=pb.Unbind(handle=1)))
        self.say(pb.AttachRequest(bind=pb.Bind(handle=2, session_id=SESSION, attach_id=2)))
        word = ""
        while not word.startswith("bound 2"):
            word = yield None
            if word.startswith(("failure 2", "unbound 2")):
                return
        self.say_block(2, 1 + int(word.split()[2]), 7)
        if (yield None) == "failure 2 SUPERSEDED":
            self.oracle.fail(f"{SESSION} is not bound any more, and nobody else has asked for it")
