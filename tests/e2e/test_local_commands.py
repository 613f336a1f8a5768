"""Commands that need no server."""

from __future__ import annotations

import json

import pytest
from e2e.command import carousel
from unit.programs.graphs import Step, write_script

CREATE = ("--cell", "gru", "--layers", "2", "--hidden", "8", "--input", "features:3", "--output", "2",
          "--dtype", "bf16", "--seed", "4")  # fmt: skip


def test_a_model_is_created_checked_listed_and_shown(tmp_path):
    folder = str(tmp_path)
    done = carousel("models", "create", "small", *CREATE, "--dir", folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "2×8 gru" in done.stdout

    (report,) = json.loads(carousel("models", "check", folder, "-o", "json").stdout)
    assert report["ok"]
    assert report["state_bytes"] > 0

    shown = json.loads(carousel("models", "show", "small", "--dir", folder, "-o", "json").stdout)
    assert (shown["input"], shown["output"], shown["compute_dtype"]) == (
        "features:3",
        2,
        "bfloat16",
    )
    assert "small" in carousel("models", "list", "--dir", folder).stdout

    again = carousel("models", "create", "small", *CREATE, "--dir", folder)
    assert again.returncode == 1
    assert "small" in again.stderr
    assert (
        carousel("models", "create", "small", *CREATE, "--dir", folder, "--overwrite").returncode
        == 0
    )


def test_a_model_is_created_with_the_options_of_its_cell(tmp_path):
    options = ("--option", "heads=4", "--hidden", "16", "--input", "features:3")
    done = carousel("models", "create", "xl", "--cell", "mlstm", *options, "--dir", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    (layer,) = json.loads((tmp_path / "xl" / "manifest.json").read_text())["stack"]
    assert layer["options"] == {"heads": 4}
    done = carousel(
        "models",
        "create",
        "ph",
        "--option",
        "peepholes=true",
        "--hidden",
        "4",
        "--dir",
        str(tmp_path),
    )
    assert (done.returncode, done.stderr) == (0, "")
    (layer,) = json.loads((tmp_path / "ph" / "manifest.json").read_text())["stack"]
    assert (layer["cell"], layer["options"]) == ("lstm", {"peepholes": True})


def test_the_same_seed_makes_the_same_weights(tmp_path):
    prints = []
    for place in ("a", "b"):
        done = carousel(
            "models", "create", "m", *CREATE, "--dir", str(tmp_path / place), "-o", "json"
        )
        prints.append(json.loads(done.stdout)["fingerprint"])
    assert prints[0] == prints[1]


def test_a_damaged_package_fails_the_check_with_its_cause(tmp_path):
    carousel("models", "create", "m", *CREATE, "--dir", str(tmp_path))
    weights = tmp_path / "m" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    done = carousel("models", "check", str(tmp_path))
    assert done.returncode == 1
    assert "fingerprint" in done.stderr
    assert "fix: a file was changed or damaged: copy the package again" in done.stderr


def test_each_package_that_cannot_be_served_is_named(tmp_path):
    for name in ("a", "b", "c"):
        carousel("models", "create", name, *CREATE, "--dir", str(tmp_path))
    (tmp_path / "a" / "model.safetensors").unlink()
    (tmp_path / "b" / "manifest.json").write_text("{")
    done = carousel("models", "check", str(tmp_path))
    assert done.returncode == 1
    assert "a: model.safetensors is missing" in done.stderr
    assert "b: manifest.json is not JSON" in done.stderr
    assert "c" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "cause", "fix"),
    [
        (
            ("models", "create", "m", "--cell", "help"),
            "no cell 'help'",
            "lstm, mamba, min_gru, min_lstm, mlstm, rnn_relu, rnn_tanh, slstm",
        ),
        (
            ("models", "create", "m", "--cell", "mlstm", "--option", "head=4"),
            "the cell mlstm has no option 'head'",
            "its options: heads: parts of h that do not see each other",
        ),
        (
            ("models", "create", "m", "--cell", "gru", "--option", "heads=4"),
            "the cell gru has no option 'heads'",
            "its options: none",
        ),
        (
            ("models", "create", "m", "--cell", "mlstm", "--option", "heads"),
            "'heads' has no value",
            "write heads=true or heads=4",
        ),
        (
            ("models", "create", "m", "--cell", "mlstm", "--option", "heads=true"),
            "the option heads of mlstm is of type int, not True",
            "",
        ),
        (("compare", "--cells", "gru,lsmt"), "no cell 'lsmt' to compare", "did you mean 'lstm'?"),
        (("models", "create", "m", "--cell", "lsmt"), "no cell 'lsmt'", "did you mean 'lstm'?"),
        (("models", "create", "m", "--input", "foo"), "'foo' is not an input", "features:64"),
        (("models", "create", "a/b"), "name: string should match pattern", ""),
        (("models", "create", "m", "--hidden", "100000"), "hidden: ", ""),
        (("models", "create", "m", "--hidden", "8", "--proj-size", "9"), "smaller than hidden", ""),
        (("compare", "--plot", "/nowhere/x.png"), "no folder /nowhere", "make it"),
        (("compare", "--plot", "x.doc"), "x.doc is not the name of a picture", ".png"),
        (("models", "check", "/nowhere"), "no folder /nowhere", "name a package"),
        (("models", "list", "--dir", "/nowhere"), "no folder /nowhere", ""),
        (("modles",), "no such command 'modles'", "did you mean 'models'?"),
        (("generate",), "missing argument", "carousel generate --help"),
        (("config", "check", "/nowhere.toml"), "cannot read /nowhere.toml", ""),
        (("demo", "--models", "/nowhere"), "no model pychar-lstm in /nowhere", "--models"),
        (("demo", "--seconds", "0"), "--seconds", "carousel demo --help"),
    ],
)
def test_a_mistake_is_said_in_two_lines(arguments, cause, fix):
    done = carousel(*arguments)
    assert done.returncode in {1, 2}
    said = done.stderr.lower()
    assert cause.lower() in said
    assert fix.lower() in said
    assert "traceback" not in said
    assert len(said.splitlines()) <= 3, "two lines, and one of progress"


def test_settings_show_where_they_come_from(tmp_path):
    file = tmp_path / "carousel.toml"
    file.write_text("slots = 12\nmax_batch = 3\n")
    done = carousel(
        "config", "show", "--config", str(file), "--set", "max_batch=4", "-o", "json",
        CAROUSEL_PORT="6000",
    )  # fmt: skip
    found = {r["setting"]: (r["value"], r["from"]) for r in json.loads(done.stdout)}
    assert found["slots"] == (12, "file")
    assert found["max_batch"] == (4, "command line")
    assert found["port"] == (6000, "environment")
    assert found["host"] == ("127.0.0.1", "default")
    assert (
        "3 settings are given"
        in carousel("config", "check", str(file), "--settings-only", CAROUSEL_PORT="6000").stdout
    )


def test_the_schema_is_a_json_schema_of_all_settings():
    schema = json.loads(carousel("config", "schema").stdout)
    assert {"models", "port", "slots", "device"} <= schema["properties"].keys()


def test_the_version_is_the_package_s():
    import carousel as sdk

    assert json.loads(carousel("version", "-o", "json").stdout)["carousel"] == sdk.__version__


def test_version_is_an_option_too():
    import carousel as sdk

    assert carousel("--version").stdout == f"carousel {sdk.__version__}\n"


def test_an_error_is_json_where_results_are():
    done = carousel("models", "shw", "-o", "json")
    told = json.loads(done.stderr)
    assert told["exit_code"] == done.returncode == 2
    assert "shw" in told["error"]
    assert "carousel models --help" in told["fix"]
    assert done.stdout == ""


def test_a_shell_completes_the_names_of_commands():
    done = carousel(_CAROUSEL_COMPLETE="complete_bash", COMP_WORDS="carousel mod", COMP_CWORD="1")
    assert done.stdout.split() == ["models"]


def test_help_lists_every_command_and_the_exit_codes():
    done = carousel("--help")
    assert done.returncode == 0
    for name in ("serve", "demo", "generate", "stream", "infer", "sessions", "store", "models", "compare",
                 "health", "config", "version", "130 interrupted"):  # fmt: skip
        assert name in " ".join(done.stdout.split())


def test_no_command_is_help_and_exit_code_2():
    done = carousel()
    assert done.returncode == 2
    assert "Usage" in done.stdout + done.stderr


def test_a_step_graph_is_imported_and_checked(tmp_path):
    file = write_script(tmp_path / "step.ts", Step())
    options = ("--as", "steps", "--dir", str(tmp_path / "out"), "--check", "--state", "h:1")
    shapes = ("--shape", "x=B,3", "--shape", "h=1,B,4")
    done = carousel("models", "import", str(file), *options, *shapes)
    assert done.returncode == 0, done.stderr
    assert "steps: imported from step.ts" in done.stdout
    assert "a step takes x and gives 0; states: h:1" in done.stderr
    assert "the package gives the original's rows" in done.stderr
    (report,) = json.loads(carousel("models", "check", str(tmp_path / "out"), "-o", "json").stdout)
    assert (report["ok"], report["state_bytes"]) == (True, 16)

    refused = carousel("models", "import", str(file), *options, "--overwrite", "--shape", "x=B,3")
    assert refused.returncode == 1
    assert "does not say the shape of 'h'" in refused.stderr
    assert "fix: say it with --shape h=DIMS" in refused.stderr


PLAN = ("plan", "--sessions", "100000", "--steps-per-s", "5", "--replica-steps-per-s", "10000")


def test_a_load_is_planned():
    done = carousel(*PLAN, "--snapshot-bytes", "4096", "-o", "json")
    assert (done.returncode, done.stderr) == (0, "")
    plan = json.loads(done.stdout)
    assert (plan["replicas"], plan["steps_per_s"], plan["commits_per_s"]) == (85, 500_000, 500_000)
    assert plan["shards"] > 1
    assert "replicas" in carousel(*PLAN, "--snapshot-bytes", "4096").stdout


def test_the_size_of_a_snapshot_comes_from_a_package(tmp_path):
    carousel("models", "create", "small", *CREATE, "--dir", str(tmp_path))
    folder = str(tmp_path / "small")
    (report,) = json.loads(carousel("models", "check", folder, "-o", "json").stdout)
    plan = json.loads(carousel(*PLAN, "--model", folder, "-o", "json").stdout)
    assert plan["snapshot_bytes"] == report["state_bytes"] + 1024


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ((), "--snapshot-bytes"),
        (("--snapshot-bytes", "4096", "--used", "2"), "used"),
        (("--model", "nowhere"), "nowhere"),
    ],
)
def test_a_plan_needs_proper_numbers(options, word):
    done = carousel(*PLAN, *options)
    assert done.returncode == 2
    assert word in done.stderr
