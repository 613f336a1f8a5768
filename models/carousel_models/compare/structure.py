"""What a cell is made of: gates, parameters, state."""

from __future__ import annotations

from math import prod
from pathlib import Path

from carousel_models.model import RecurrentModel
from carousel_models.spec import GATES
from carousel_models.tensors import expected_tensors

from .results import Structure

EQUATIONS = {
    "rnn_tanh": "h ← tanh(W·[h,x])",
    "rnn_relu": "h ← max(0, W·[h,x])",
    "lstm": "f,i,o = σ(W·[h,x]);  c ← f∘c + i∘tanh(W·[h,x]);  h ← o∘tanh(c)",
    "gru": "z,r = σ(W·[h,x]);  n = tanh(W·x + r∘W·h);  h ← (1−z)∘n + z∘h",
    "gru_reset_before": "z,r = σ(W·[h,x]);  n = tanh(W·[r∘h,x]);  h ← (1−z)∘h + z∘n",
}


def structure(model: RecurrentModel, cell: str, package: Path) -> Structure:
    """Reads it off the package's manifest and tensors; nothing is run."""
    manifest = model.manifest
    layer = manifest.stack[0]
    tensors = expected_tensors(manifest)
    stack = [info for name, info in tensors.items() if name.startswith("stack.")]
    return Structure(
        cell=cell,
        equation=EQUATIONS[layer.cell],
        gates=GATES[layer.cell],
        state_tensors=tuple(name for name, _ in layer.states),
        layers=len(manifest.stack),
        hidden=manifest.hidden,
        stack_parameters=sum(prod(info.shape) for info in stack),
        parameters=model.parameters,
        state_bytes=model.state_bytes,
        package_bytes=sum(file.stat().st_size for file in package.iterdir() if file.is_file()),
    )
