"""Whole modules of many forms: saved, loaded, and stepped against the module itself in float64."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from carousel_models import RecurrentModel, load, save
from tests.unit.whole import modules as m

STEPS, BATCH = 7, 3


def rows(result: Any) -> Tensor:
    """[B, T, W], as most modules give it."""
    return result[0] if isinstance(result, tuple) else result


def flat(result: Any) -> Tensor:
    return rows(result).reshape(BATCH, STEPS, -1)


def time_first(result: Any) -> Tensor:
    return rows(result).transpose(0, 1)


def logits(result: Any) -> Tensor:
    found: Tensor = result["logits"]
    return found


class Case(NamedTuple):
    """A module, its tokens (0: features of `width`), and its rows among its results."""

    make: Callable[[], nn.Module]
    tokens: int = 0
    width: int = 0
    rows: Callable[[Any], Tensor] = rows
    time_first: bool = False
    more: Callable[[nn.Module], tuple[Any, ...]] = lambda _: ()
    last: bool = False


LENGTHS = torch.full((BATCH,), STEPS)
CASES = {
    "tagger": Case(m.Tagger, tokens=40, rows=time_first, time_first=True),
    "char-lstm": Case(m.CharModel, 30, rows=flat, more=lambda n: (n.init_hidden(BATCH),)),
    "char-gru": Case(
        lambda: m.CharModel("GRU"), 30, rows=flat, more=lambda n: (n.init_hidden(BATCH),)
    ),
    "one-hot": Case(m.OneHotChars, tokens=11),
    "forecaster": Case(m.Forecaster, width=1, last=True),
    "multivariate": Case(m.MultivariateForecaster, width=3),
    "sentiment": Case(m.Sentiment, tokens=50, last=True, rows=lambda r: r[:, None]),
    "packed-sentiment": Case(
        m.PackedSentiment, 50, last=True, more=lambda _: (torch.full((BATCH,), -1),)
    ),
    "packed-unsorted": Case(
        lambda: m.PackedSentiment(False), 50, last=True,
        more=lambda _: (torch.full((BATCH,), -1),),
    ),
    "packed-tagger": Case(m.PackedTagger, width=4, more=lambda _: (LENGTHS,)),
    "speech-front": Case(m.SpeechFront, width=20),
    "channels-first": Case(m.ChannelsFirst, width=8),
    "batch-norm-head": Case(m.BatchNormHead, width=6, last=True),
    "residual": Case(m.ResidualStack, width=5),
    "pre-norm": Case(m.PreNormModel, tokens=21, rows=logits),
    "cell-loop": Case(m.CellLoop, width=3),
    "gru-cell-loop": Case(m.GruCellLoop, width=4),
    "rnn-cell-last": Case(m.RnnCellLast, width=4, time_first=True, last=True),
    "step-loop": Case(m.StepLoop, width=3),
    "several": Case(m.Several, width=4, rows=time_first, time_first=True),
    "functional": Case(m.Functional, width=4),
    "bidirectional": Case(m.BiTagger, tokens=30),
    "argmax": Case(m.ArgmaxTagger, width=4),
    "top-k": Case(m.TopKTagger, width=4),
    "activations": Case(m.ManyActivations, width=4),
    "nested": Case(m.Outer, width=5),
}  # fmt: skip


def trained(case: Case, seed: int = 0) -> nn.Module:
    """A module whose every number is its own: biases, norms and running statistics too."""
    torch.manual_seed(seed)
    module = case.make()
    with torch.no_grad():
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if tensor.is_floating_point() and name not in ("mean", "std"):
                noise = torch.randn_like(tensor) * 0.1
                tensor.copy_(tensor.abs() + 0.1 if "running_var" in name else tensor + noise)
    return module


def sample(case: Case) -> Tensor:
    torch.manual_seed(1)
    if case.tokens:
        return torch.randint(case.tokens, (BATCH, STEPS))
    x = torch.randn(BATCH, STEPS, case.width)
    if case.make is not m.MultivariateForecaster:
        return x
    return x * torch.tensor([2.0, 0.1, 40.0]) + torch.tensor([1000.0, -3.0, 0.2])


def wanted(case: Case, module: nn.Module, x: Tensor) -> Tensor:
    """The module's own rows in float64, one call for each step where it gives the last one."""
    exact = copy.deepcopy(module).double().eval()
    x = x if case.tokens else x.double()

    def call(part: Tensor) -> Tensor:
        steps = part.shape[1]
        given = part.transpose(0, 1) if case.time_first else part
        more = [
            torch.full_like(one, steps)
            if isinstance(one, Tensor) and one.dtype == torch.int64
            else one
            for one in case.more(exact)
        ]
        with torch.no_grad():
            return case.rows(exact(given, *more))

    if case.last:
        return torch.stack([call(x[:, : t + 1]) for t in range(STEPS)], dim=1)
    return call(x)


def stepped(model: RecurrentModel, x: Tensor) -> list[Tensor]:
    """The package's fields, step by step if it can."""
    with torch.inference_mode():
        if not model.causal:
            raw, _ = model.sequence(x, torch.full((BATCH,), STEPS))
            return list(model.finish(raw))
        state, steps = model.initial_state(BATCH), []
        for t in range(STEPS):
            raw, state = model.step(x[:, t], state)
            steps.append(model.finish(raw))
        return [torch.stack(field, dim=1) for field in zip(*steps, strict=True)]


def saved(path: Path, module: nn.Module, **options: Any) -> RecurrentModel:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save(path, model=module, **options)
    return load(path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_a_package_steps_as_its_module(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    module = trained(case)
    x = sample(case)
    expected = wanted(case, module, x)
    model = saved(tmp_path / "m", module.to(dtype))
    found = stepped(model, x)[0]
    if not expected.is_floating_point():
        assert torch.equal(found.long(), expected)
    else:
        torch.testing.assert_close(found.double(), expected, rtol=3e-5, atol=3e-5)
    assert module.training, "save leaves the module as it was"
