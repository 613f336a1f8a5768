"""Mutated requests for the native readers alone: `python -m tests.fuzz.readers --seconds 60`.

Each poll lies in a buffer of its own length, so that a sanitizer sees a byte read beyond it. What a reader
calls plain must be what protobuf reads.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from random import Random
from typing import Any

from google.protobuf.message import DecodeError

from carousel_protos.triton import inference_pb2 as triton
from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.wire.native.readers import (
    END,
    NO_ACK,
    START,
    UNKNOWN,
    BlockReader,
    BlockRow,
    InferReader,
    InferRow,
)

_MOST_REQUESTS = 8
"""Requests of a poll."""

_EDGES = (b"\x80", b"\xff" * 9 + b"\x01", b"\xff" * 10, b"\x00", b"\xff\xff\xff\xff\x0f", b"\x7f")
"""Numbers at the bounds of what protobuf encodes, and some beyond."""

_UINT64 = (1 << 64) - 1


# -- requests as clients send them


def block(random: Random) -> bytes:
    """A message of an Attach stream, mostly a block of one session."""
    if random.random() < 0.1:
        return pb.AttachRequest(acks=pb.Acks()).SerializeToString()
    count = random.choice((1, 1, 1, 1, 2))
    numbers = (1, 127, 128, 1 << 31, (1 << 32) - 1)
    made = pb.Block(
        handles=[random.choice(numbers) for _ in range(count)],
        first_seqs=[random.choice((*numbers, 1 << 62)) for _ in range(count)],
        steps=random.choice((1, 64)),
        inputs=random.randbytes(random.choice((0, 16, 300))),
        dtype=random.choice((0, 1, 7)),
        acks=[random.randrange(1 << 40)] * random.choice((0, 1)),
    )
    return pb.AttachRequest(block=made).SerializeToString()


def infer(random: Random) -> bytes:
    """A request of Triton's protocol, mostly one step of a sequence."""
    made = triton.ModelInferRequest(
        model_name=random.choice(("echo", "lstm")),
        id=random.choice(("", "7", "request-1000", "naïve")),
        raw_input_contents=[random.randbytes(random.choice((0, 16, 300)))],
    )
    made.inputs.add(name="INPUT", datatype="FP32", shape=[1, 4])
    if random.random() < 0.9:
        made.parameters["sequence_id"].int64_param = random.choice((1, 300, -1, 1 << 62))
        made.parameters["sequence_start"].bool_param = random.random() < 0.2
        made.parameters["sequence_end"].bool_param = random.random() < 0.2
    if random.random() < 0.1:
        made.parameters["priority"].int64_param = 1
    return made.SerializeToString()


# -- what becomes of them


def _changed(random: Random, data: bytearray, _: bytes) -> None:
    if data:
        data[random.randrange(len(data))] = random.choice(
            (0, 1, 0x7F, 0x80, 0xFF, random.randrange(256))
        )


def _cut(random: Random, data: bytearray, _: bytes) -> None:
    begin = random.randrange(len(data) + 1)
    del data[begin : begin + random.choice((1, 2, 9, len(data)))]


def _edge(random: Random, data: bytearray, _: bytes) -> None:
    at = random.randrange(len(data) + 1)
    data[at : at + random.choice((0, 1))] = random.choice(_EDGES)


def _spliced(random: Random, data: bytearray, other: bytes) -> None:
    begin, at = random.randrange(len(other) + 1), random.randrange(len(data) + 1)
    data[at:at] = other[begin : begin + random.randrange(64)]


def _joined(_: Random, data: bytearray, other: bytes) -> None:
    """Protobuf merges messages that follow each other."""
    data += other


EDITS = (_changed, _cut, _edge, _spliced, _joined)


def mutated(random: Random, make: Callable[[Random], bytes]) -> bytes:
    """A request with a few edits, often none."""
    data = bytearray(make(random))
    for _ in range(random.choice((0, 0, 1, 1, 2, 4))):
        random.choice(EDITS)(random, data, make(random))
    return bytes(data)


# -- what must hold


def check_block(request: bytes, whole: bytes, row: BlockRow) -> bool:
    """True if the row is plain. Raises AssertionError if it is not what protobuf reads."""
    handle, first_seq, steps, ack, dtype, inputs_at, inputs_end = row
    if not handle:
        return False
    read = pb.AttachRequest.FromString(request)
    expected = pb.Block(
        handles=[handle], first_seqs=[first_seq], steps=steps, dtype=dtype,
        inputs=whole[inputs_at:inputs_end], acks=[] if ack == NO_ACK else [ack],
    )  # fmt: skip
    assert read == pb.AttachRequest(block=expected), f"{request!r} was read as {row}"
    return True


def check_infer(request: bytes, whole: bytes, row: InferRow, forms: Sequence[Any]) -> bool:
    """True if the row is plain. Raises AssertionError if it is not what protobuf reads."""
    form, sequence, flags, id_at, id_end, row_at, row_end = row
    if form == UNKNOWN:
        return False
    read = triton.ModelInferRequest.FromString(request)
    parameters = read.parameters
    assert read.id.encode() == whole[id_at:id_end], request
    assert list(read.raw_input_contents) == [whole[row_at:row_end]], request
    named = parameters["sequence_id"].int64_param if "sequence_id" in parameters else 0
    assert named & _UINT64 == sequence & _UINT64, request
    for name, flag in (("sequence_start", START), ("sequence_end", END)):
        given = name in parameters and parameters[name].bool_param
        assert given == bool(flags & flag), request
    assert formed(read) == forms[form], request
    return True


def formed(request: Any) -> Any:
    """A request without its id, sequence and numbers."""
    left = triton.ModelInferRequest()
    left.CopyFrom(request)
    left.ClearField("id")
    left.ClearField("raw_input_contents")
    for name in ("sequence_id", "sequence_start", "sequence_end"):
        if name in left.parameters:
            del left.parameters[name]
    return left


@dataclass
class Fuzzer:
    """Both readers. Counts what they have read, and how much of it was plain."""

    blocks: BlockReader = field(default_factory=BlockReader)
    infers: InferReader = field(default_factory=InferReader)
    forms: list[Any] = field(default_factory=list)
    requests: int = 0
    plain: int = 0

    def poll(self, random: Random) -> None:
        """Lets each reader read one poll. Raises AssertionError if one is wrong."""
        for make, read in ((block, self._read_blocks), (infer, self._read_infers)):
            requests = [mutated(random, make) for _ in range(random.randint(1, _MOST_REQUESTS))]
            self.requests += len(requests)
            self.plain += sum(read(requests, *_laid(requests)))

    def _read_blocks(self, requests: list[bytes], buffer: Any, ends: list[int]) -> list[bool]:
        rows = self.blocks.read(buffer, [0, *ends[:-1]], ends)
        return [check_block(one, buffer.raw, row) for one, row in zip(requests, rows, strict=True)]

    def _read_infers(self, requests: list[bytes], buffer: Any, ends: list[int]) -> list[bool]:
        for request in requests:
            self._learn(request)
        rows = self.infers.read(buffer, [0, *ends[:-1]], ends)
        return [
            check_infer(one, buffer.raw, row, self.forms)
            for one, row in zip(requests, rows, strict=True)
        ]

    def _learn(self, request: bytes) -> None:
        """As the door does: only what protobuf can read is learned."""
        try:
            read = triton.ModelInferRequest.FromString(request)
        except DecodeError:
            return
        if self.infers.learn(request) == len(self.forms):
            self.forms.append(formed(read))


def _laid(requests: list[bytes]) -> tuple[Any, list[int]]:
    """One buffer with all requests and nothing behind them, and where each ends."""
    ends = list(accumulate(map(len, requests)))
    return ctypes.create_string_buffer(b"".join(requests), ends[-1] or 1), ends


def main() -> int:
    """Returns the exit status; a wrong read raises, and a sanitizer ends the process."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.readers")
    parser.add_argument("--seconds", type=float, default=60, help="how long to read")
    parser.add_argument("--seed", type=int, default=1, help="of the first poll; each adds one")
    chosen = parser.parse_args()
    fuzzer, seed, ends_s = Fuzzer(), chosen.seed, time.monotonic() + chosen.seconds
    while time.monotonic() < ends_s:
        try:
            fuzzer.poll(Random(seed))
        except Exception:
            print(f"seed {seed}", file=sys.stderr)
            raise
        seed += 1
    print(
        f"{fuzzer.requests} requests, {fuzzer.plain} of them plain; all were read as protobuf does"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
