"""A client that breaks the rules on purpose: repeats, gaps, other inputs or resets for the same seq."""

from __future__ import annotations

from carousel_protos.v1 import carousel_pb2 as pb

from .model import NAME, RESET, fold, fold_all, row_of
from .raw import RawClient, Script

SESSION = "probed"


class Prober(RawClient):
    """Its session is one that no store keeps."""

    def script(self) -> Script:
        """See `RawClient`."""
        self.say(pb.AttachRequest(hello=pb.Hello(client="prober")))
        open_request = pb.OpenSessionRequest(model=NAME, session_id=SESSION, durability=1, seed=1)
        self.say(pb.AttachRequest(bind=pb.Bind(handle=1, open=open_request)))
        if (yield None) != "bound 1 0":
            return
        self.say_block(1, 1, 3, 5)
        first = yield None
        if not first.startswith("outputs 1"):
            return
        self.say_block(1, 1, 3, 5)
        self._expect("a repeated block", (yield None), first)
        self.say_block(1, 1, 3, 6)
        self._expect("another input for step 2", (yield None), "failure 1 SEQUENCE_REUSED")
        self.say_block(1, 4, 1)
        self._expect("step 4 after step 2", (yield None), "failure 1 SEQUENCE_GAP")
        self.say_block(1, 3, 1)
        third = yield None
        self._expect("step 3", third, third if third.startswith("outputs 3 ") else "outputs 3")
        self.say_block(1, 4, RESET + 3)
        fourth = yield None
        self._expect("a step with a reset", fourth, *self._rows(4, fold(0, 3)))
        self.say_block(1, 4, RESET + 3)
        self._expect("a repeated reset", (yield None), fourth)
        self.say_block(1, 4, 3)
        self._expect("step 4 without its reset", (yield None), "failure 1 SEQUENCE_REUSED")
        self.say_block(1, 5, 5)
        self._expect("step 5", (yield None), *self._rows(5, fold_all((3, 5))))

    def _rows(self, seq: int, state: int) -> list[str]:
        """The words for an output, of either kind of server."""
        return [f"outputs {seq} {row_of(state, drift).hex()}" for drift in (0, self.oracle.drift)]

    def _expect(self, what: str, answer: str, *expected: str) -> None:
        if answer not in (*expected, "failure 1 DRAINING"):
            self.oracle.fail(f"R1, R2: {what} was answered with {answer}, not {expected[0]}")
