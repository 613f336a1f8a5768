"""A client that sends a step with a reset again, after its session was in the store."""

from __future__ import annotations

from carousel_protos.v1 import carousel_pb2 as pb

from .model import NAME, RESET
from .raw import RawClient, Script

SESSION = "repeated"
_REST_S = 0.6
"""After so long its session is parked, mostly."""

_GONE = ("failure 2 DRAINING", "failure 2 HANDLE_NOT_BOUND")
"""What a session that has left its server is answered with."""


class Repeater(RawClient):
    """Acknowledges nothing, so the server keeps the step, on its row and in the store."""

    def script(self) -> Script:
        """See `RawClient`."""
        self.say(pb.AttachRequest(hello=pb.Hello(client="repeater")))
        open_request = pb.OpenSessionRequest(model=NAME, session_id=SESSION, durability=2, seed=1)
        bind = pb.Bind(handle=1, open=open_request, attach_id=1)
        self.say(pb.AttachRequest(bind=bind))
        if (yield None) != "bound 1 0":
            return
        self.say_block(1, 1, RESET + 3)
        first = yield None
        if not first.startswith("outputs 1 "):
            return
        yield _REST_S
        self.say(pb.AttachRequest(unbind=pb.Unbind(handle=1)))
        self.say(pb.AttachRequest(bind=pb.Bind(handle=2, session_id=SESSION, attach_id=2)))
        word = ""
        while not word.startswith("bound 2"):
            word = yield None
            if word.startswith(("failure 2", "unbound 2")):
                return
        if word != "bound 2 1":
            return  # the store has lost the step
        self.say_block(2, 1, RESET + 3)
        self._expect("a repeated reset", (yield None), first)
        self.say_block(2, 1, 3)
        self._expect("step 1 without its reset", (yield None), "failure 2 SEQUENCE_REUSED")

    def _expect(self, what: str, answer: str, expected: str) -> None:
        if answer != expected and answer not in _GONE and not answer.startswith("unbound 2"):
            self.oracle.fail(f"R2, R6: {what} was answered with {answer}, not {expected}")
