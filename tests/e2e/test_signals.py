"""Models of a signal behind a real server: chunks of any size, both clients, blocks, Infer and Triton."""

from __future__ import annotations

import asyncio
import wave
from pathlib import Path

import grpc
import numpy as np
import pytest
import torch
from e2e.command import carousel as command
from support.server import ServerProcess
from torch import nn

import carousel
from carousel_models import save
from carousel_models.spec import FramesInput, OverlapAdd
from carousel_protos.triton import inference_pb2 as pb

HOP, CONTEXT, WIDTH = 16, 8, 40
RATE = 8000


@pytest.fixture(scope="module")
def signal() -> np.ndarray:
    return np.random.default_rng(3).integers(-12000, 12000, 50 * HOP + 5).astype(np.int16)


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.GRU]:
    torch.manual_seed(4)
    folder = tmp_path_factory.mktemp("signals")
    module = nn.GRU(CONTEXT + HOP, WIDTH, batch_first=True)
    frames = FramesInput(hop=HOP, context=CONTEXT, rate=RATE)
    save(folder / "detector", stack=module, frames=frames)
    save(folder / "filter", stack=module, frames=frames, overlap_add=OverlapAdd(hop=HOP))
    return folder, module


@pytest.fixture(scope="module")
def server(modules):
    with ServerProcess(modules[0], slots=2, store="memory") as process:
        yield process


@pytest.fixture
def rows(modules, signal):
    """The detector's rows of the whole signal, from the original module alone."""
    padded = np.concatenate((np.zeros(CONTEXT), signal, np.zeros(-len(signal) % HOP))) / 2.0**15
    steps = (len(padded) - CONTEXT) // HOP
    x = np.stack([padded[t * HOP : t * HOP + CONTEXT + HOP] for t in range(steps)])
    with torch.no_grad():
        found, _ = modules[1](torch.from_numpy(x.astype(np.float32))[None])
    return found[0].numpy()


def overlapped(rows: np.ndarray) -> np.ndarray:
    whole = np.zeros((len(rows) - 1) * HOP + WIDTH)
    for t, row in enumerate(rows):
        whole[t * HOP : t * HOP + WIDTH] += row
    return whole


def chunks(signal: np.ndarray) -> list[np.ndarray]:
    return np.split(signal, [1, 7, 40, 41, 300])


def test_chunks_of_any_size_give_a_row_for_each_hop(server, signal, rows):
    with carousel.Client(server.target) as client, client.session("detector") as session:
        found = np.stack(list(session.stream_audio(chunks(signal))))
    np.testing.assert_allclose(found, rows, atol=1e-5)


def test_the_output_signal_is_complete_and_as_long_as_promised(server, signal, rows):
    with carousel.Client(server.target) as client:
        info = client.model("filter").signal
        assert info == carousel.SignalInfo(HOP, RATE, True, WIDTH - HOP)
        with client.session("filter") as session:
            raw = [signal.tobytes()[:33], signal.tobytes()[33:]]
            found = np.concatenate(list(session.stream_audio(raw, ahead=1)))
    assert len(found) == len(signal) + info.delay
    whole = len(signal) // HOP * HOP  # the last frame has zeros in the place of samples
    np.testing.assert_allclose(found[:whole], overlapped(rows)[:whole], atol=1e-5)


async def test_a_live_source_gets_its_rows_while_it_goes_on(server, signal, rows):
    found = []

    async def microphone():
        for number, chunk in enumerate(np.split(signal[: 20 * HOP], 20)):
            while len(found) < number:  # each row has come before the next chunk is heard
                await arrived.get()
            yield chunk

    arrived: asyncio.Queue[int] = asyncio.Queue()
    async with (
        carousel.AsyncClient(server.target) as client,
        client.session("detector") as session,
    ):
        async for row in session.stream_audio(microphone()):
            found.append(row)
            arrived.put_nowait(len(found))
    np.testing.assert_allclose(np.stack(found), rows[:20], atol=1e-5)


def test_the_context_is_parked_exported_and_reset_with_the_session(server, signal, rows):
    """Two slots for six sessions, so that each parks again and again."""
    x = signal[: 12 * HOP].reshape(12, HOP)
    with carousel.Client(server.target) as client:
        sessions = [client.session("detector") for _ in range(6)]
        for at in range(0, 12, 4):
            for session in sessions:
                np.testing.assert_allclose(
                    session.steps(x[at : at + 4]), rows[at : at + 4], atol=1e-5
                )
        copy = client.import_session(sessions[0].export())
        with copy, sessions[1] as first:
            more = signal[12 * HOP : 13 * HOP]
            np.testing.assert_allclose(copy.step(more), rows[12], atol=1e-5)
            first.reset()
            np.testing.assert_allclose(first.step(x[0]), rows[0], atol=1e-5)
        for session in sessions:
            session.close()


def test_a_whole_signal_is_inferred(server, signal, rows):
    x = signal[: 30 * HOP].reshape(30, HOP)
    with carousel.Client(server.target) as client:
        np.testing.assert_allclose(client.infer("detector", x), rows[:30], atol=1e-5)


def test_triton_clients_send_int16(server, signal, rows):
    with grpc.insecure_channel(server.target) as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelInferResponse.FromString,
        )
        for t in range(3):
            request = pb.ModelInferRequest(
                model_name="detector",
                raw_input_contents=[signal[t * HOP : (t + 1) * HOP].tobytes()],
            )
            request.inputs.add(name="x", datatype="INT16", shape=[1, HOP])
            request.parameters["sequence_id"].int64_param = 7
            request.parameters["sequence_start"].bool_param = t == 0
            request.parameters["sequence_end"].bool_param = t == 2
            reply = infer(request, timeout=30)
            found = np.frombuffer(reply.raw_output_contents[0], np.float32)
            np.testing.assert_allclose(found, rows[t], atol=1e-5)


def test_other_samples_are_refused_and_lose_nothing(server, signal, rows):
    with carousel.Client(server.target) as client, client.session("detector") as session:
        session.step(signal[:HOP])
        with pytest.raises(carousel.InputDtypeError):
            session.step(np.zeros(HOP, np.float32))
        with pytest.raises(carousel.InputShapeError, match="one channel"):
            list(session.stream_audio([np.zeros((2, HOP), np.int16)]))
        np.testing.assert_allclose(session.step(signal[HOP : 2 * HOP]), rows[1], atol=1e-5)


def write(path: Path, samples: np.ndarray, rate: int = RATE, channels: int = 1) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, 2, rate, 0, "NONE", "not compressed"))
        file.writeframes(samples.tobytes())
    return path


def test_the_command_streams_a_wav_file(server, signal, rows, tmp_path):
    sound = write(tmp_path / "sound.wav", signal)
    done = command("stream", "detector", str(sound), "--server", server.target)
    assert done.returncode == 0, done.stderr
    found = np.loadtxt(done.stdout.splitlines()[1:], delimiter=",", dtype=np.float64)
    np.testing.assert_allclose(found[:, 1:], rows, atol=1e-5)


def test_the_command_writes_the_output_signal(server, signal, rows, tmp_path):
    sound, clean = write(tmp_path / "sound.wav", signal), tmp_path / "clean.wav"
    words = ("stream", "filter", str(sound), "--wav", str(clean))
    done = command(*words, "--server", server.target)
    assert done.returncode == 0, done.stderr
    assert f"{WIDTH - HOP} samples late" in done.stderr
    with wave.open(str(clean), "rb") as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (RATE, 1, 2)
        found = np.frombuffer(file.readframes(1 << 20), "<i2") / 2.0**15
    assert len(found) == len(signal) + WIDTH - HOP
    whole = len(signal) // HOP * HOP
    expected = np.clip(overlapped(rows)[:whole], -1, 1)
    np.testing.assert_allclose(found[:whole], expected, atol=2.0**-15)


def test_the_command_shows_frames(server):
    done = command("models", "show", "filter", "--server", server.target)
    assert f"frames:{HOP}@{RATE}" in done.stdout


@pytest.mark.parametrize(
    ("model", "rate", "channels", "more", "fault"),
    [
        ("detector", 16000, 1, (), "convert it to 8000 samples a second"),
        ("detector", 8000, 2, (), "one channel"),
        ("detector", 8000, 1, ("--wav", "out.wav"), "are no signal"),
    ],
)
def test_the_command_refuses_other_sound(
    server, signal, tmp_path, model, rate, channels, more, fault
):
    sound = write(tmp_path / "sound.wav", signal[:640], rate, channels)
    done = command("stream", model, str(sound), *more, "--server", server.target)
    assert done.returncode == 2
    assert fault in done.stderr


def test_the_command_refuses_a_damaged_wav_and_samples_that_are_too_large(server, tmp_path):
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFFnothing")
    done = command("stream", "detector", str(broken), "--server", server.target)
    assert (done.returncode, "not a WAV file" in done.stderr) == (2, True)
    row = ",".join(["40000"] * HOP)
    done = command("stream", "detector", "-", "--server", server.target, stdin=row + "\n")
    assert done.returncode == 2, done.stderr
    assert "sample of 16 bits" in done.stderr
