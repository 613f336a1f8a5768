"""The native readers of requests, against protobuf."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.triton import request

from carousel_protos.triton import inference_pb2 as pb
from carousel_protos.v1 import carousel_pb2 as v1
from carousel_server.wire.native.library import missing
from carousel_server.wire.native.readers import (
    END,
    MOST_FORMS,
    NO_ACK,
    START,
    UNKNOWN,
    BlockReader,
    BlockRow,
    InferReader,
    InferRow,
)

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "it can be compiled")


def row_of(reader, data):
    return InferRow(*reader.read(b"##" + data, [2], [2 + len(data)])[0])


def plain(sequence=7, values=(1.0, 2.0), **options):
    return request("echo", values, sequence, **options).SerializeToString()


@given(
    st.text(st.characters(max_codepoint=127), max_size=20),
    st.integers(-(2**63), 2**63 - 1).filter(bool),
    st.booleans(),
    st.booleans(),
    st.lists(st.floats(width=32, allow_nan=False), max_size=8),
)
def test_what_protobuf_reads_is_what_it_reads(name, sequence, start, end, values):
    reader = InferReader()
    assert reader.learn(plain()) == 0
    shaped = request("echo", [1.0, 2.0], sequence, start=start, end=end, id=name)
    row = b"".join(
        pb.InferTensorContents(fp32_contents=[v]).SerializeToString()[-4:] for v in values
    )
    shaped.raw_input_contents[0] = row
    data = shaped.SerializeToString()
    found = row_of(reader, data)
    whole = b"##" + data
    assert found.form == 0
    assert found.sequence == sequence
    assert found.flags == (START if start else 0) | (END if end else 0)
    assert whole[found.id_at : found.id_end] == name.encode()
    assert whole[found.row_at : found.row_end] == row


def test_forms_differ_in_all_that_is_not_of_the_step():
    reader = InferReader()
    alike = plain()
    others = [
        request("other", [1.0, 2.0], 7).SerializeToString(),
        plain(name="y"),
        plain(datatype="INT32"),
        plain(values=(1.0, 2.0, 3.0)),
        plain(priority=3),
        plain(timeout=1000),
        plain(durability="sync"),
    ]
    versioned = request("echo", [1.0, 2.0], 7)
    versioned.model_version = "1"
    asks = request("echo", [1.0, 2.0], 7)
    asks.outputs.add(name="y")
    others += [versioned.SerializeToString(), asks.SerializeToString()]
    assert reader.learn(alike) == 0
    assert [row_of(reader, other).form for other in others] == [UNKNOWN] * len(others)
    assert [reader.learn(other) for other in others] == list(range(1, len(others) + 1))
    assert [row_of(reader, other).form for other in others] == list(range(1, len(others) + 1))
    assert reader.learn(plain(sequence=9, values=(5.0, 6.0), id="x", start=True)) == 0


def two(*parts: pb.ModelInferRequest) -> bytes:
    """Messages one after the other are one message in which later fields count."""
    return b"".join(part.SerializeToString() for part in parts)


STRANGE = {
    "an id that is not ASCII": plain(id="größe"),
    "a text for the sequence": plain(sequence="seven"),
    "two ids": two(request("echo", [1.0, 2.0], 7, id="a"), pb.ModelInferRequest(id="b")),
    "two tensors": two(
        request("echo", [1.0, 2.0], 7), pb.ModelInferRequest(raw_input_contents=[b""])
    ),
    "the sequence twice": two(request("echo", [1.0], 7), request("echo", [], 8)),
    "no tensor": pb.ModelInferRequest(model_name="echo").SerializeToString(),
    "nothing": b"",
    "half a field": plain()[:-1],
    "an endless number": b"\x08" + b"\xff" * 10,
    "field 0": b"\x00\x01",
    "a group": b"\x0b\x0c" + plain(),
    "a long form": request("e" * 5000, [1.0], 7).SerializeToString(),
}


@pytest.mark.parametrize("what", STRANGE)
def test_what_is_not_plain_is_left_to_be_parsed(what):
    reader = InferReader()
    assert reader.learn(STRANGE[what]) == UNKNOWN
    assert row_of(reader, STRANGE[what]) == InferRow(UNKNOWN, 0, 0, 0, 0, 0, 0)


def test_a_sequence_by_another_type_is_left_to_be_parsed():
    asked = request("echo", [1.0], 0)
    asked.parameters["sequence_id"].uint64_param = 7
    assert InferReader().learn(asked.SerializeToString()) == UNKNOWN
    asked = request("echo", [1.0], 7)
    asked.parameters["sequence_start"].int64_param = 1
    assert InferReader().learn(asked.SerializeToString()) == UNKNOWN


def test_forms_are_bounded_and_the_newest_are_known():
    reader = InferReader()
    requests = [request(f"m{i}", [1.0], 7).SerializeToString() for i in range(MOST_FORMS + 2)]
    assert [reader.learn(one) for one in requests] == list(range(MOST_FORMS + 2))
    known = [row_of(reader, one).form for one in requests]
    assert known == [UNKNOWN] * MOST_FORMS + [MOST_FORMS, MOST_FORMS + 1]
    assert reader.learn(requests[0]) == MOST_FORMS + 2, "an old number does not come again"


def test_many_are_read_at_once_in_order():
    reader = InferReader()
    reader.learn(plain())
    requests = [plain(sequence=n, id=str(n)) for n in range(1, 200)]
    begins, ends, data = [], [], b""
    for one in requests:
        begins.append(len(data))
        data += one
        ends.append(len(data))
    rows = [InferRow(*row) for row in reader.read(data, begins, ends)]
    assert [row.sequence for row in rows] == list(range(1, 200))
    assert [data[row.id_at : row.id_end] for row in rows] == [b"%d" % n for n in range(1, 200)]


def test_random_bytes_are_read_as_protobuf_reads_them_or_not_at_all():
    random, reader = Random(5), InferReader()
    good = plain(id="abc", start=True)
    reader.learn(good)
    known = 0
    for _ in range(20_000):
        data = bytearray(good)
        for _ in range(random.randrange(1, 3)):
            data[random.randrange(len(data))] = random.randrange(256)
        changed = bytes(data)
        row = row_of(reader, changed)
        if row.form == UNKNOWN:
            continue
        known += 1
        parsed = pb.ModelInferRequest.FromString(changed)
        whole = b"##" + changed
        assert parsed.model_name == "echo"
        assert parsed.id.encode() == whole[row.id_at : row.id_end]
        assert list(parsed.raw_input_contents) == [whole[row.row_at : row.row_end]]
        assert parsed.parameters["sequence_id"].int64_param == row.sequence
        flags = (parsed.parameters["sequence_start"].bool_param * START) | (
            parsed.parameters["sequence_end"].bool_param * END
        )
        assert flags == row.flags
    assert known > 1000, "some changes leave a plain request"


# -- blocks of Attach streams


def block_row(data):
    return BlockRow(*BlockReader().read(b"#" + data, [1], [1 + len(data)])[0])


def block(**fields):
    return v1.AttachRequest(block=v1.Block(**fields)).SerializeToString()


NOT_PLAIN = BlockRow(0, 0, 0, 0, 0, 0, 0)._replace(ack=NO_ACK)


@given(
    st.integers(1, 2**32 - 1),
    st.integers(1, 2**63 - 1),
    st.integers(0, 2**32 - 1),
    st.binary(max_size=40),
    st.none() | st.integers(0, 2**63 - 1),
    st.sampled_from(v1.DataType.values()),
)
def test_a_block_of_one_session_is_read_as_protobuf_writes_it(
    handle, seq, steps, inputs, ack, dtype
):
    acks = [] if ack is None else [ack]
    data = block(
        handles=[handle], first_seqs=[seq], steps=steps, inputs=inputs, acks=acks, dtype=dtype
    )
    row = block_row(data)
    assert (row.handle, row.first_seq, row.steps, row.dtype) == (handle, seq, steps, dtype)
    assert row.ack == (NO_ACK if ack is None else ack)
    assert (b"#" + data)[row.inputs_at : row.inputs_end] == inputs


ONE = {"handles": [1], "first_seqs": [1], "steps": 1, "inputs": b"1234"}
OTHERS = {
    "two sessions": block(handles=[1, 2], first_seqs=[1, 1], steps=1, inputs=b"12345678"),
    "no session": block(steps=1),
    "no seqs": block(handles=[1], steps=1, inputs=b"1234"),
    "two seqs": block(handles=[1], first_seqs=[1, 2], steps=1, inputs=b"1234"),
    "two acks": block(**ONE, acks=[0, 1]),
    "seq 0": block(**(ONE | {"first_seqs": [0]})),
    "a seq beyond the last": block(**(ONE | {"first_seqs": [2**63]})),
    "handle 0": block(**(ONE | {"handles": [0]})),
    "a deadline": block(**ONE, timeout={"seconds": 1}),
    "resets": block(**ONE, resets=b"\1"),
    "an ack": v1.AttachRequest(acks=v1.Acks(handles=[1], acks=[1])).SerializeToString(),
    "a Replay": v1.AttachRequest(replay=v1.Replay(handle=1)).SerializeToString(),
    "two events": block(**ONE) + v1.AttachRequest(replay=v1.Replay(handle=1)).SerializeToString(),
    "a block in two parts": block(**ONE) + block(steps=2),
    "a field twice": b"\x1a\x04\x18\x01\x18\x02",
    "a handle beyond 32 bits": b"\x1a\x0e\x08\xff\xff\xff\xff\x1f\x10\x01\x18\x01\x22\x02ab",
    "half a block": block(**ONE)[:-1],
    "nothing": b"",
}


@pytest.mark.parametrize("what", OTHERS)
def test_any_other_message_of_a_stream_is_left_to_be_parsed(what):
    assert block_row(OTHERS[what]) == NOT_PLAIN


def test_numbers_that_are_not_packed_are_read_too():
    data = b"\x1a\x0a\x08\x07\x10\x05\x18\x01\x22\x02ab"
    assert v1.AttachRequest.FromString(data).block.handles == [7]
    row = block_row(data)
    assert (row.handle, row.first_seq, row.steps) == (7, 5, 1)


def test_changed_bytes_are_read_as_protobuf_reads_them_or_not_at_all():
    random, good, plain_ones = Random(11), block(**ONE, acks=[3], dtype=1), 0
    for _ in range(20_000):
        data = bytearray(good)
        for _ in range(random.randrange(1, 3)):
            data[random.randrange(len(data))] = random.randrange(256)
        changed = bytes(data)
        row = block_row(changed)
        if row == NOT_PLAIN:
            continue
        plain_ones += 1
        parsed = v1.AttachRequest.FromString(changed).block
        assert (list(parsed.handles), list(parsed.first_seqs)) == ([row.handle], [row.first_seq])
        assert (parsed.steps, parsed.dtype) == (row.steps, row.dtype)
        assert list(parsed.acks) == ([] if row.ack == NO_ACK else [row.ack])
        assert parsed.inputs == (b"#" + changed)[row.inputs_at : row.inputs_end]
        assert not parsed.resets
        assert not parsed.HasField("timeout")
    assert plain_ones > 1000, "some changes leave a plain block"
