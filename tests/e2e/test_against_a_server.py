"""Every command that talks to a server, against a real one."""

from __future__ import annotations

import json

import numpy as np
import pytest
from e2e.command import carousel, started
from support.server import BILSTM, FEATURES, GRU_BYTES, LSTM

import carousel as sdk

ROWS = "\n".join(["a,b,c,d", "1,2,3,4", "0.5,-1,0,2", "4,3,2,1"]) + "\n"
X = np.array([[1, 2, 3, 4], [0.5, -1, 0, 2], [4, 3, 2, 1]], np.float32)


@pytest.fixture
def run(server):
    def run(*arguments, **options):
        return carousel(*arguments, "--server", server.target, **options)

    return run


@pytest.fixture
def client(server):
    with sdk.Client(server.target) as client:
        yield client


def succeeded(done):
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_health_names_the_server_and_each_model(run):
    records = json.loads(succeeded(run("health", "-o", "json")))
    assert [r["model"] for r in records] == ["(server)", BILSTM, GRU_BYTES, LSTM]
    assert {r["health"] for r in records} == {"serving"}


def test_models_are_listed_and_shown(run):
    table = succeeded(run("models", "list"))
    assert LSTM in table
    assert f"features:{FEATURES}" in table
    model = json.loads(succeeded(run("models", "show", GRU_BYTES, "-o", "json")))
    assert (model["cell"], model["vocabulary"], model["generative"]) == ("gru", 256, True)


def test_generate_is_repeatable_by_seed_and_counts(run):
    arguments = ("generate", GRU_BYTES, "def ", "--max-tokens", "12", "--seed", "5", "-o", "json")
    first, second = (json.loads(succeeded(run(*arguments))) for _ in range(2))
    assert first == second
    assert (first["generated_tokens"], first["finish_reason"]) == (12, "length")
    assert first["prompt_tokens"] == 4


def test_a_session_is_opened_by_name_and_left_open(run):
    opened = ("sessions", "open", GRU_BYTES, "--id", "named", "--seed", "3", "-o", "json")
    assert json.loads(succeeded(run(*opened))) == {"id": "named", "done": "opened", "applied": 0}
    text = ("generate", GRU_BYTES, "def", "--session", "named", "--max-tokens", "5", "-o", "json")
    assert json.loads(succeeded(run(*text)))["applied"] == 7
    succeeded(run("sessions", "close", "named"))
    refused = run("sessions", "open", GRU_BYTES, "--durability", "forever")
    assert refused.returncode == 2
    assert "none, async, sync, sync+fsync" in refused.stderr


def test_generate_prints_prompt_and_text(run, client):
    text = succeeded(run("generate", GRU_BYTES, "def ", "--max-tokens", "12", "--seed", "5"))
    made = client.generate(GRU_BYTES, "def ", max_tokens=12, temperature=0.8, seed=5).text()
    assert text == f"def {made}\n"
    bare = ("generate", GRU_BYTES, "-", "--max-tokens", "12", "--seed", "5", "--no-prompt")
    assert succeeded(run(*bare, stdin="def ")) == f"{made}\n"


def test_stream_gives_the_outputs_of_the_sdk(run, client, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text(ROWS)
    lines = succeeded(run("stream", LSTM, str(path))).splitlines()
    assert lines[0] == "seq,y_0,y_1,y_2"
    got = np.array([[float(cell) for cell in line.split(",")] for line in lines[1:]])
    with client.session(LSTM) as session:
        np.testing.assert_allclose(got[:, 1:], session.steps(X), rtol=1e-5)
    assert got[:, 0].tolist() == [1, 2, 3]


def test_an_empty_line_starts_an_episode_where_that_is_asked_for(run, tmp_path):
    episode = succeeded(run("stream", LSTM, stdin=ROWS)).splitlines()[1:]
    both = tmp_path / "rows.csv"
    numbers = ROWS.split("\n", 1)[1]
    both.write_text(f"{ROWS}\n{numbers}")
    lines = succeeded(run("stream", LSTM, str(both), "--reset-on-blank")).splitlines()
    assert [line.split(",")[1:] for line in lines[1:4]] == [x.split(",")[1:] for x in episode]
    assert lines[4] == ""
    assert [line.split(",")[1:] for line in lines[5:]] == [x.split(",")[1:] for x in episode]
    without = succeeded(run("stream", LSTM, str(both))).splitlines()
    assert (len(lines), len(without)) == (8, 7)
    assert without[4].split(",")[1:] != episode[0].split(",")[1:]
    kept = run("stream", LSTM, "--keep", stdin=ROWS)
    session_id = kept.stderr.split()[1]
    more = ("stream", LSTM, "--session", session_id, "--reset-on-blank")
    again = succeeded(run(*more, stdin=f"\n{numbers}")).splitlines()[1:]
    assert again == episode
    succeeded(run("sessions", "close", session_id))


def test_stream_answers_a_pipe_row_by_row(server):
    process = started("stream", LSTM, "-o", "json", "--server", server.target)
    with process:
        for seq in (1, 2, 3):
            process.stdin.write("1,2,3,4\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["seq"] == seq
        process.stdin.close()
        assert process.wait() == 0


def test_stream_of_a_token_model_takes_ids_and_refuses_fractions(run):
    assert len(succeeded(run("stream", GRU_BYTES, stdin="100\n101\n")).splitlines()) == 3
    wrong = run("stream", GRU_BYTES, stdin="1.5\n")
    assert (wrong.returncode, "1.5 is not a token id" in wrong.stderr) == (2, True)


def test_infer_runs_a_bidirectional_model_over_a_file(run, client, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text(ROWS)
    lines = succeeded(run("infer", BILSTM, str(path), "-o", "json")).splitlines()
    got = np.array([json.loads(line)["y"] for line in lines])
    np.testing.assert_allclose(got, client.infer(BILSTM, X), rtol=1e-5)


def test_a_session_is_kept_shown_forked_moved_and_closed(run, client, tmp_path):
    kept = run("stream", LSTM, "--keep", stdin=ROWS)
    session_id = kept.stderr.split()[1]
    shown = json.loads(succeeded(run("sessions", "show", session_id, "-o", "json")))
    assert (shown["model"], shown["phase"], shown["applied"]) == (LSTM, "resident", 3)
    assert session_id in succeeded(run("sessions", "list", "--model", LSTM))

    succeeded(run("sessions", "fork", session_id, "--id", "a-fork"))
    snapshot = tmp_path / "session.bin"
    succeeded(run("sessions", "export", session_id, str(snapshot)))
    succeeded(run("sessions", "import", str(snapshot), "--id", "a-copy"))

    more = "9,8,7,6\n"
    outputs = [
        succeeded(run("stream", LSTM, "--session", each, stdin=more)).splitlines()[1]
        for each in (session_id, "a-fork", "a-copy")
    ]
    assert len(set(outputs)) == 1, "the three have the same state"

    other = run("stream", GRU_BYTES, "--session", "a-fork", stdin="100\n")
    assert (other.returncode, f"one of {LSTM}, not of {GRU_BYTES}" in other.stderr) == (2, True)

    ids = (session_id, "a-fork", "a-copy")
    assert succeeded(run("sessions", "close", *ids)).splitlines() == [f"closed {i}" for i in ids]
    gone = run("sessions", "show", session_id)
    assert (gone.returncode, "SESSION_CLOSED" in gone.stderr) == (4, True)


def test_generation_goes_on_in_a_kept_session(run):
    kept = run("stream", GRU_BYTES, "--keep", stdin="100\n101\n102\n")
    session_id = kept.stderr.split()[1]
    done = run(
        "generate", GRU_BYTES, " x", "--session", session_id, "--max-tokens", "4", "-o", "json"
    )
    assert json.loads(succeeded(done))["applied"] >= 3 + 2 + 3
    succeeded(run("sessions", "close", session_id))


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "cause", "fix"),
    [
        (("generate", "gru-byts", "x"), "", 4, "has no model 'gru-byts'", "did you mean 'gru-bytes'?"),
        (("models", "show", "lsmt"), "", 4, "has no model 'lsmt'", "did you mean 'lstm'?"),
        (("generate", LSTM, "x"), "", 4, "MODEL_NOT_GENERATIVE", "language model"),
        (("generate", GRU_BYTES, ""), "", 2, "prompt is empty", "a text to continue"),
        (("stream", BILSTM), ROWS, 4, "MODEL_NOT_CAUSAL", "carousel infer"),
        (("stream", LSTM), "1,2\n", 2, "line 1 has 2 cells", "that many numbers"),
        (("stream", LSTM), "1,2,nan,4\n", 2, "line 1: 'nan' is not a finite number", "remove the line"),
        (("stream", GRU_BYTES), "256\n", 2, "line 1: 256 is not a token of the model", "0 to 255"),
        (("infer", BILSTM, "-"), "1,2,3,4\n1,2,3,inf\n", 2, "line 2: 'inf' is not a finite", "remove"),
        (("infer", BILSTM, "-"), "1,2,3,4\n" * 70_000, 4, "SEQUENCE_TOO_LONG", "fewer steps"),
        (("infer", BILSTM, "-"), "1,2,3,4\n" * 400_000, 4, "MESSAGE_TOO_LARGE", "fewer steps"),
        (("stream", LSTM, "absent.csv"), "", 2, "no file absent.csv", "stdin"),
        (("infer", GRU_BYTES, "absent.py"), "", 2, "absent.py", ""),
        (("infer", GRU_BYTES, "-"), "", 2, "is empty", "at least one step"),
        (("infer", BILSTM, "-"), "", 2, "no row of numbers", "at least one step"),
        (("stream", LSTM), "a,b,c,d\n", 2, "no row of numbers", "at least one step"),
        (("generate", GRU_BYTES, "x", "--seed", "-1"), "", 2, "'--seed'", "generate --help"),
        (("sessions", "close", "nobody"), "", 4, "SESSION_NOT_FOUND", "carousel sessions list"),
        (("sessions", "import", "pyproject.toml"), "", 4, "SNAPSHOT_INVALID", "ExportSession"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_cause_one_fix_and_one_code(run, arguments, stdin, code, cause, fix):
    done = run(*arguments, stdin=stdin)
    assert done.returncode == code, done.stderr
    assert cause in done.stderr
    assert fix in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 2
    assert done.stdout == ""


@pytest.mark.parametrize("bad", ["1,2,x,4", "1,2,nan,4", "1,2", "1,2,3,1e39"])
def test_a_bad_line_comes_after_the_outputs_of_the_lines_before_it(run, bad):
    good = "1,2,3,4\n" * 300
    whole = succeeded(run("stream", LSTM, stdin=good))
    done = run("stream", LSTM, stdin=good + bad + "\n" + good)
    assert (done.returncode, "line 301" in done.stderr) == (2, True)
    assert len(done.stderr.splitlines()) == 2
    assert done.stdout == whole
    assert len(whole.splitlines()) == 301


def test_a_session_that_is_to_be_kept_is_kept_at_a_bad_line(run):
    done = run("stream", LSTM, "--keep", "-", stdin=ROWS + "1,2,nan,4\n")
    assert done.returncode == 2
    assert "line 5" in done.stderr
    session_id = done.stderr.split()[1]
    shown = json.loads(succeeded(run("sessions", "show", session_id, "-o", "json")))
    assert shown["applied"] == 3
    succeeded(run("sessions", "close", session_id))


def test_a_reader_that_leaves_ends_the_command_quietly(server):
    process = started(
        "generate", GRU_BYTES, "x", "--max-tokens", "20000", "--server", server.target
    )
    with process:
        process.stdout.read(5)
        process.stdout.close()
        assert process.wait() == 0
        assert process.stderr.read() == ""


def test_the_server_can_be_named_by_the_environment(server):
    assert "serving" in succeeded(carousel("health", CAROUSEL_SERVER=server.target))


@pytest.mark.parametrize("address", ["localhost", "http://h:1", "h:99999", "h:http", ":1"])
def test_an_address_that_cannot_be_one_is_refused_at_once(address):
    done = carousel("health", "--server", address)
    assert (done.returncode, f"'{address}' is not an address" in done.stderr) == (2, True)


@pytest.mark.parametrize("address", ["h:1,", "h:1,h:1", "h:1,i", "h:1,dns:///i:1", "dns:///h"])
def test_a_list_that_is_not_well_formed_is_refused_with_its_form(address):
    done = carousel("health", "--server", address)
    assert (done.returncode, f"target '{address}'" in done.stderr) == (2, True)
    assert "A:50051,B:50051" in done.stderr


def test_one_of_several_servers_is_enough(server):
    servers = f"127.0.0.1:1,{server.target}"
    assert "serving" in succeeded(carousel("health", CAROUSEL_SERVER=servers))
    assert LSTM in succeeded(carousel("models", "list", "--server", servers))


def test_a_reader_that_leaves_a_stream_leaves_no_session(server, client):
    process = started("stream", LSTM, "--server", server.target)
    with process:
        process.stdin.write("1,2,3,4\n")
        process.stdin.flush()
        process.stdout.readline()
        process.stdout.close()
        process.stdin.write("1,2,3,4\n" * 3)
        process.stdin.close()
        assert (process.wait(), process.stderr.read()) == (0, "")
    assert list(client.sessions(LSTM)) == []


def test_nobody_at_the_address_is_exit_code_3():
    done = carousel("health", "--server", "127.0.0.1:1")
    assert done.returncode == 3
    assert "no server answers at 127.0.0.1:1" in done.stderr


def test_bench_measures_paced_streams_and_leaves_no_session(run, client):
    before = [session.id for session in client.sessions()]
    words = (
        "bench",
        LSTM,
        "--paced",
        "20",
        "--streams",
        "4",
        "--together",
        "2",
        "--seconds",
        "0.5",
    )
    record = json.loads(succeeded(run(*words, "--deadline-ms", "30000", "-o", "json")))
    assert (record["steps"], record["missed"], record["errors"]) == (40, 0, {})
    assert 0 < record["p50_ms"] <= record["p99_ms"] <= record["max_ms"]
    assert "p99 ms" in succeeded(run(*words))
    assert [session.id for session in client.sessions()] == before


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (("bench", LSTM, "--most"), "add --paced HZ"),
        (("bench", LSTM, "--paced", "0"), "--paced 31.25"),
        (("bench", BILSTM, "--paced", "5"), "choose a causal model"),
    ],
)
def test_bench_refuses_what_it_cannot_measure(run, words, fix):
    done = run(*words)
    assert done.returncode in (2, 4)
    assert fix in done.stderr
