"""A whole comparison on models with random weights: the facts must be the facts."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from itertools import pairwise
from math import e, log2
from pathlib import Path

import pytest
import torch
from rich.console import Console

from carousel_models import PackageError, load
from carousel_models.cells import MinGRU
from carousel_models.compare import Comparison, plot, run, table
from carousel_models.compare.cells import CELLS, compared
from carousel_models.compare.corpus import Corpus, SourceFile
from carousel_models.compare.quality import PIECE_BYTES, text_quality
from carousel_models.compare.running import SHARES
from carousel_models.from_torch import convert_stack

from .conftest import HIDDEN, QUICK, random_package, random_zoo

LOG2_E = log2(e)


def test_structure_counts_what_the_equations_say(comparison: Comparison) -> None:
    by_cell = {entry.cell: entry for entry in comparison.structure}
    for cell, gates in {"rnn": 1, "lstm": 4, "gru": 3}.items():
        assert by_cell[cell].gates == gates
        assert by_cell[cell].stack_parameters == gates * HIDDEN * (4 + HIDDEN + 2)
    assert by_cell["min_gru"].stack_parameters == 2 * HIDDEN * (4 + 1)
    assert by_cell["mlstm"].state_tensors == ("C", "n", "m")
    assert by_cell["mlstm"].state_bytes == 4 * (4 * (HIDDEN // 4) ** 2 + HIDDEN + 4)
    assert by_cell["mamba"].state_bytes == 4 * HIDDEN * (3 + 16)
    assert list(by_cell) == list(CELLS)
    assert by_cell["lstm"].state_tensors == ("h", "c")
    assert by_cell["lstm"].state_bytes == 2 * by_cell["gru"].state_bytes == 2 * 4 * HIDDEN


def test_every_cell_is_measured_at_every_batch_and_gap(comparison: Comparison) -> None:
    assert {(s.cell, s.batch) for s in comparison.speed} == {
        (cell, batch) for cell in CELLS for batch in (1, 64, 256)
    }
    assert all(0 < s.low_s <= s.median_s <= s.high_s and s.rounds >= 8 for s in comparison.speed)
    assert [(r.cell, r.gap, r.trained) for r in comparison.recall[:2]] == [
        ("rnn", 1, True),
        ("rnn", 4, False),
    ]
    assert all(0 <= r.low <= r.accuracy <= r.high <= 1 for r in comparison.recall)


def test_a_cell_without_a_text_model_is_measured_in_the_same_sizes(comparison: Comparison) -> None:
    assert [entry.cell for entry in comparison.quality] == ["rnn", "lstm", "gru"]
    heads = set()
    for entry in comparison.structure:
        assert (entry.hidden, entry.layers) == (HIDDEN, 1)
        assert (entry.package_bytes > 0) is (entry.cell in ("rnn", "lstm", "gru"))
        heads.add(entry.parameters - entry.stack_parameters)
    assert len(heads) == 1  # embedding and head are the same
    by_cell = {entry.cell: entry for entry in comparison.fits}
    assert "no trained text model" in by_cell["min_gru"].weaknesses
    assert "no trained text model" not in by_cell["gru"].weaknesses


def test_a_cell_gets_its_text_model_from_the_zoo(tmp_path: Path) -> None:
    random_zoo(tmp_path)
    random_package(tmp_path, "min_gru", MinGRU, HIDDEN)
    found = run(
        tmp_path, seconds_per_measurement=0.01, held_out_bytes=500, task=QUICK,
        cells=("gru", "min_gru", "lru"),
    )  # fmt: skip
    assert [entry.cell for entry in found.structure] == ["gru", "min_gru", "lru"]
    assert [entry.cell for entry in found.quality] == ["gru", "min_gru"]
    assert found.quality[1].trained_steps == 7
    assert found.structure[1].package_bytes > 0


def test_cells_alone_are_compared_too(tmp_path: Path) -> None:
    found = run(
        random_zoo(tmp_path), seconds_per_measurement=0.01, held_out_bytes=500, task=QUICK,
        cells=("slstm",),
    )  # fmt: skip
    assert found.quality == ()
    console = Console(width=160, force_terminal=False)
    with console.capture() as capture:
        console.print(table(found))
    assert "Bits per byte" not in capture.get()
    plot(found, tmp_path / "one.png")
    assert found.fits[0].weaknesses[0] == "no trained text model"


def test_an_unknown_cell_is_an_error(tmp_path: Path) -> None:
    for ask in (lambda: compared("leaky"), lambda: run(random_zoo(tmp_path), cells=("leaky",))):
        with pytest.raises(
            PackageError, match="no compared cell 'leaky', only rnn, lstm, gru, min_gru"
        ):
            ask()


@pytest.mark.parametrize("name", CELLS)
def test_every_compared_module_can_be_saved_and_has_marks_of_its_own(name: str) -> None:
    cell = compared(name)
    spec, tensors = convert_stack(cell.make(4, 8, 2), residual=False, norms=())
    assert [layer.hidden for layer in spec] == [8, 8]
    assert tensors
    others = [other for key, other in CELLS.items() if key != name]
    assert cell.colour not in {other.colour for other in others}
    assert cell.marker not in {other.marker for other in others}


def test_random_weights_are_about_as_good_as_guessing(comparison: Comparison) -> None:
    for entry in comparison.quality:
        assert 7 < entry.bits_per_byte < 9
        assert entry.trained_steps == 7


def test_the_progress_grows_from_nothing_to_all(
    comparison: Comparison, reports: list[tuple[str, float]]
) -> None:
    assert comparison.quality
    shares = [done for _, done in reports]
    assert shares == sorted(shares)
    assert shares[0] == 0.0
    assert shares[-1] == pytest.approx(1.0)
    assert list(dict.fromkeys(now for now, _ in reports)) == list(SHARES)
    assert sum(SHARES.values()) == pytest.approx(1.0)


@pytest.mark.parametrize(("load", "busy"), [(None, False), (0.9, False), (1.0, True), (7.0, True)])
def test_a_busy_machine_is_said(comparison: Comparison, load: float | None, busy: bool) -> None:
    machine = replace(comparison.machine, cores=2, load_before=load)
    assert machine.busy is busy
    console = Console(width=160, force_terminal=False, markup=False)  # as the command's is
    with console.capture() as capture:
        console.print(table(replace(comparison, machine=machine)))
    assert "[dim]" not in capture.get()
    assert ("The machine was busy" in capture.get()) is busy


def test_it_is_plain_data(comparison: Comparison) -> None:
    assert json.loads(json.dumps(asdict(comparison)))["structure"][0]["cell"] == "rnn"


def test_the_table_names_all_three_parts(comparison: Comparison) -> None:
    console = Console(width=160, record=True, file=None, quiet=False, force_terminal=False)
    with console.capture() as capture:
        console.print(table(comparison))
    text = capture.get()
    for words in ("1 Structure", "2 Performance", "3 Where each fits", "step of 64"):
        assert words in text
    for cell in CELLS.values():
        assert text.count(f"│ {cell.label} ") == 4


def test_the_picture_is_a_picture(comparison: Comparison, tmp_path: Path) -> None:
    plot(comparison, tmp_path / "compare.png")
    assert (tmp_path / "compare.png").read_bytes().startswith(b"\x89PNG")


def test_models_of_different_sizes_are_not_compared(tmp_path: Path) -> None:
    random_zoo(tmp_path, hidden={"lstm": 12})
    with pytest.raises(PackageError, match="differ in"):
        run(tmp_path)


def test_bits_per_byte_equals_the_sum_over_single_steps(tmp_path: Path) -> None:
    model = load(random_zoo(tmp_path) / "pychar-gru")
    texts = [b"def f():\n    return 1\n" * 20, b"x", b"ab"]
    corpus = Corpus(tuple(SourceFile(str(len(text)), text) for text in texts))
    bits, count = 0.0, 0
    for text in texts:
        state = model.initial_state(1)
        for byte, following in pairwise(text):
            raw, state = model.step(torch.tensor([byte]), state)
            bits -= float(torch.log_softmax(raw[0].double(), -1)[following]) * LOG2_E
            count += 1
    found = text_quality(model, "gru", corpus)
    assert found.predicted_bytes == count
    assert found.bits_per_byte == pytest.approx(bits / count, rel=1e-5)


def test_each_piece_of_a_long_file_starts_afresh(tmp_path: Path) -> None:
    model = load(random_zoo(tmp_path) / "pychar-lstm")
    piece = bytes(range(256)) * (PIECE_BYTES // 256)
    once = text_quality(model, "lstm", Corpus((SourceFile("a", piece),)))
    twice = text_quality(model, "lstm", Corpus((SourceFile("a", piece * 2),)))
    assert twice.predicted_bytes == 2 * once.predicted_bytes
    assert twice.bits_per_byte == pytest.approx(once.bits_per_byte, rel=1e-6)
