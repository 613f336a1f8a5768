"""Cells, kernels and tokenizers are found by name; an unknown name is an error and never another one's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import nn

from carousel_models import PackageError, save
from carousel_models import tokenizer as tokenizers
from carousel_models.cell_facts import (
    FACTS,
    Cell,
    CellFacts,
    CellState,
    Option,
    facts_of,
    gated,
)
from carousel_models.cells import CELLS, OWN_MODULES, CellCode, Weights, code_of
from carousel_models.creating import random_tensors
from carousel_models.errors import KernelError
from carousel_models.from_torch import convert_stack
from carousel_models.kernels import KERNELS, choose
from carousel_models.kernels import cpu as native
from carousel_models.kernels.library import CELLS_NATIVE, Library, NativeLayer, load_library
from carousel_models.kernels.reference import Reference
from carousel_models.loading import build
from carousel_models.lookup import entry
from carousel_models.model import TRANSFORMS
from carousel_models.row_functions import ACTIVATIONS
from carousel_models.spec import (
    Activation,
    FeaturesInput,
    LayerSpec,
    Manifest,
    NoHead,
    Output,
    SelectArgmax,
    SelectFull,
    SelectTopK,
    TokensInput,
    Transform,
    uniform_stack,
)
from carousel_models.stack import Around, Layer
from carousel_models.tokenizer import TokenizerKind, form_of, kind_of, load_tokenizer
from carousel_server.process.config import Settings

CPU = torch.device("cpu")
NEW = "leaky"


def leaky(gates_x: Any, state: Any, w: Weights) -> Any:
    """A cell that no table has: h ← h/2 + x."""
    h = state[0] / 2 + gates_x
    return h, (h,)


def spec_of(cell: str) -> LayerSpec:
    """A layer's spec that no check of names has seen."""
    values = {"cell": cell, "hidden": 2, "bias": True, "bidirectional": False, "proj_size": 0}
    return LayerSpec.model_construct(**values)


def weights(gates: int = 1) -> Weights:
    return Weights(torch.eye(2).repeat(gates, 1), torch.eye(2).repeat(gates, 1), None, None)


@pytest.fixture
def library() -> Library:
    try:
        return load_library()
    except KernelError as unavailable:
        pytest.skip(f"the cpu kernel: {unavailable}")


def test_every_cell_stands_in_every_table() -> None:
    names = set(get_args(Cell))
    assert set(FACTS) == set(CELLS) == names
    assert names > set(CELLS_NATIVE) - {"linear", "sigmoid"}


def test_the_facts_of_a_cell_name_the_kernels_that_have_code_for_it() -> None:
    assert set(native.FORMS) == {cell for cell, facts in FACTS.items() if "cpu" in facts.kernels}
    assert {kernel for facts in FACTS.values() for kernel in facts.kernels} <= set(KERNELS)


def test_the_facts_of_a_cell_name_the_cuda_kernel_where_it_has_a_packed_form() -> None:
    pytest.importorskip("triton")
    from carousel_models.kernels import packed

    assert set(packed.FORMS) == {cell for cell, facts in FACTS.items() if "cuda" in facts.kernels}


def test_an_unknown_name_is_told_with_the_known_ones_and_the_fix() -> None:
    with pytest.raises(PackageError) as error:
        entry({"a": 1, "b": 2}, "c", "letter", PackageError, "write a or b")
    assert str(error.value) == "there is no letter 'c', only a, b; write a or b"


@pytest.mark.parametrize("ask", [facts_of, code_of])
def test_an_unknown_cell_is_an_error(ask: Callable[[str], Any]) -> None:
    with pytest.raises((PackageError, KernelError), match=f"no cell '{NEW}', only rnn_tanh, rnn"):
        ask(NEW)


def test_the_reference_does_not_take_an_unknown_cell_for_another() -> None:
    with pytest.raises(KernelError, match=f"no cell '{NEW}'.*add its code to cells.CELLS"):
        Reference().layer(spec_of(NEW), weights())


def test_the_cpu_kernel_does_not_take_an_unknown_cell_for_another(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PackageError, match=f"no cell '{NEW}'"):
        native.Cpu(library).layer(spec_of(NEW), weights())
    add(monkeypatch, gated("h ← h/2 + W·x", 1))
    with pytest.raises(KernelError, match=f"'{NEW}'.*kernels/cpu.FORMS.*kernel=reference"):
        native.Cpu(library).layer(spec_of(NEW), weights())
    with pytest.raises(KernelError, match=f"no native layer '{NEW}', only linear, sigmoid"):
        NativeLayer(library, NEW, weights())


def test_the_cuda_kernel_does_not_run_an_unknown_cell_as_an_rnn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("triton")
    from carousel_models.kernels.packed import packed

    with pytest.raises(PackageError, match=f"no cell '{NEW}'"):
        packed(spec_of(NEW), weights())
    add(monkeypatch, gated("h ← h/2 + W·x", 1))
    with pytest.raises(KernelError, match=f"'{NEW}'.*kernels/packed.FORMS.*kernel=reference"):
        packed(spec_of(NEW), weights())


def run_new(layer: Layer) -> None:
    """Two steps of ones, and the same as a whole sequence."""
    zeros = (torch.zeros(1, 2),)
    y, state = layer.step(torch.ones(1, 2), zeros, None)
    y, _ = layer.step(torch.ones(1, 2), state, None)
    rows, _ = layer.sequence(torch.ones(2, 2), [1, 1], zeros)
    assert y.tolist() == [[1.5, 1.5]]
    torch.testing.assert_close(rows[1:], y)


def test_a_new_cell_runs_step_by_step_and_in_whole_sequences(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    add(monkeypatch)
    run_new(Layer(spec_of(NEW), (weights(),), Around(), Reference()))


def test_a_cell_without_native_code_is_left_to_the_reference(
    library: Library, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    add(monkeypatch)
    caplog.set_level("INFO")
    kernel = native.Cpu(library)
    assert kernel.layer(spec_of(NEW), weights()) is None
    layer = Layer(spec_of(NEW), (weights(),), Around(), kernel)
    assert not layer.batch_invariant
    run_new(layer)
    assert f"the reference kernel steps {NEW} layers, as native-" in caplog.text


def test_a_cell_without_a_packed_form_is_left_to_the_reference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("triton")
    from carousel_models.kernels.cuda import Cuda

    add(monkeypatch)
    assert Cuda().layer(spec_of(NEW), weights()) is None
    run_new(Layer(spec_of(NEW), (weights(),), Around(), Cuda()))


def add(monkeypatch: pytest.MonkeyPatch, facts: CellFacts | None = None) -> None:
    """Puts the new cell into the two tables that every cell is in."""
    without_code = replace(gated("h ← h/2 + W·x", 1), kernels=())
    monkeypatch.setitem(FACTS, NEW, facts or without_code)
    monkeypatch.setitem(CELLS, NEW, CellCode(Weights.of, lambda x, _: x, leaky))


def test_every_new_cell_is_trained_by_a_module() -> None:
    for kind in OWN_MODULES:
        assert CELLS[kind.cell] is kind.code
    trained = {kind.cell for kind in OWN_MODULES}
    assert trained | {cell for cell, code in CELLS.items() if code.mode} == set(CELLS)


def test_a_torch_module_of_an_unknown_mode_is_refused() -> None:
    module = nn.RNN(2, 2)
    module.mode = "RNN_GELU"
    with pytest.raises(PackageError, match="mode of a recurrent module 'RNN_GELU', only RNN_TANH"):
        convert_stack(module, residual=False, norms=())


def test_only_cells_that_project_may_project() -> None:
    assert LayerSpec(cell="lstm", hidden=4, proj_size=2).unseen == ("h",)
    for cell in ("gru", "rnn_tanh"):
        with pytest.raises(ValueError, match=r"proj_size is an option of lstm, .* only"):
            LayerSpec(cell=cell, hidden=4, proj_size=2)


def test_a_cell_has_the_options_of_its_facts_only(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"heads": Option(2, "heads", least=1), "open": Option(default=False, meaning="open")}
    monkeypatch.setitem(FACTS, "gru", replace(FACTS["gru"], options=options))
    layer = LayerSpec(cell="gru", hidden=4, options={"heads": 3, "open": False})
    assert layer.options == {"heads": 3}
    assert layer == LayerSpec(cell="gru", hidden=4, options={"heads": 3})
    assert (layer.option("heads"), layer.option("open")) == (3, False)
    assert layer.model_dump()["options"] == {"heads": 3}
    assert "options" not in LayerSpec(cell="gru", hidden=4).model_dump()
    assert LayerSpec.model_validate_json(layer.model_dump_json()) == layer
    for name, (value, message) in {
        "width": (1, "gru has no option 'width'; its options: heads, open"),
        "heads": (0, "the option heads of gru is 1 or more, not 0"),
        "open": (1, "the option open of gru is of type bool, not 1"),
    }.items():
        with pytest.raises(ValueError, match=message):
            LayerSpec(cell="gru", hidden=4, options={name: value})
    with pytest.raises(ValueError, match="rnn_tanh has no option 'heads'; its options: none"):
        LayerSpec(cell="rnn_tanh", hidden=4, options={"heads": 3})


def test_the_states_of_a_layer_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    def states(layer: LayerSpec) -> tuple[CellState, ...]:
        return (CellState("c", (layer.hidden, layer.hidden)),)

    monkeypatch.setitem(FACTS, "gru", replace(FACTS["gru"], states=states))
    LayerSpec(cell="gru", hidden=1 << 12)
    with pytest.raises(ValueError, match=r"state c of this gru would have 16,785,409 elements"):
        LayerSpec(cell="gru", hidden=(1 << 12) + 1)


def test_every_function_of_rows_stands_in_its_table() -> None:
    assert set(ACTIVATIONS) == set(get_args(Activation))
    assert set(TRANSFORMS) == set(get_args(Transform))


def test_every_selection_finishes_a_row_into_the_fields_that_it_names() -> None:
    raw = torch.rand(3, 4)
    for select in (SelectFull(), SelectTopK(k=2), SelectArgmax()):
        manifest = Manifest(
            name="m", fingerprint="0" * 64, input=FeaturesInput(width=4),
            stack=uniform_stack("gru", 1, 4), head=NoHead(), output=Output(select=select),
        )  # fmt: skip
        model = build(manifest, random_tensors(manifest, 0), kernel=Reference())
        found = [(str(t.dtype), tuple(t.shape[1:])) for t in model.finish(raw)]
        assert found == [(f"torch.{f.dtype}", f.shape) for f in select.fields(4)]
        assert found == [(str(dtype), shape) for _, dtype, shape in model.output_fields]


def test_every_input_says_what_a_row_of_it_is() -> None:
    tokens, features = TokensInput(vocabulary=9, embedding=3), FeaturesInput(width=4)
    assert (tokens.row.dtype, tokens.row.shape) == ("int32", ())
    assert (features.row.dtype, features.row.shape) == ("float32", (4,))


def test_the_setting_and_the_table_name_the_same_kernels() -> None:
    named = set(get_args(Settings.model_fields["kernel"].annotation))
    assert named == {"auto", *KERNELS}


def test_an_unknown_kernel_is_an_error() -> None:
    with pytest.raises(KernelError, match="no kernel 'fast', only reference, cpu, cuda; choose"):
        choose("fast", CPU)
    with pytest.raises(KernelError, match="no kernel 'meta'"):
        choose("meta", torch.device("meta"))  # a device of that name is no reason to guess


def test_every_kind_of_tokenizer_stands_in_the_table() -> None:
    assert {"none", *tokenizers.FORMS} == set(get_args(TokenizerKind))


def test_an_unknown_kind_of_tokenizer_is_an_error() -> None:
    for ask in (form_of, lambda kind: load_tokenizer(kind, Path("tokenizer.json"))):
        with pytest.raises(
            PackageError, match=r"tokenizer 'sentences', only bytes, huggingface; up"
        ):
            ask("sentences")


def test_a_mistyped_tokenizer_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(
        PackageError, match="no tokenizer 'byte' and no such file; give none, bytes"
    ):
        save(tmp_path / "m", embedding=nn.Embedding(256, 4), stack=nn.GRU(4, 4), tokenizer="byte")
    assert not (tmp_path / "m").exists()


def test_the_kind_of_a_file_is_the_one_that_can_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_text("{}")
    with pytest.raises(PackageError, match=r"tokenizer.json is not a tokenizer file"):
        kind_of(file)
    readable = tokenizers.TokenizerForm(lambda _: tokenizers.BytesTokenizer(), has_file=True)
    monkeypatch.setitem(tokenizers.FORMS, "sentences", readable)  # type: ignore[misc]
    assert kind_of(file) == "sentences"
    assert kind_of("bytes") == "bytes"
    assert kind_of("none") == "none"


def test_a_new_tokenizer_says_how_many_tokens_a_model_must_know(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="bytes tokenizer needs a vocabulary of at least 256"):
        save(tmp_path / "m", embedding=nn.Embedding(9, 4), stack=nn.GRU(4, 9), tokenizer="bytes")
