"""What a cell is made of: gates, parameters, state."""

from __future__ import annotations

from math import prod
from pathlib import Path

from carousel_models.cell_facts import facts_of
from carousel_models.model import RecurrentModel
from carousel_models.tensors import expected_tensors

from .results import Structure


def structure(model: RecurrentModel, cell: str, package: Path) -> Structure:
    """Reads it off the package's manifest and tensors; nothing is run."""
    manifest = model.manifest
    layer = manifest.stack[0]
    facts = facts_of(layer.cell)
    tensors = expected_tensors(manifest)
    stack = [info for name, info in tensors.items() if name.startswith("stack.")]
    return Structure(
        cell=cell,
        equation=facts.equation,
        gates=facts.gates,
        state_tensors=tuple(name for name, _ in layer.states),
        layers=len(manifest.stack),
        hidden=manifest.hidden,
        stack_parameters=sum(prod(info.shape) for info in stack),
        parameters=model.parameters,
        state_bytes=model.state_bytes,
        package_bytes=sum(file.stat().st_size for file in package.iterdir() if file.is_file()),
    )
