"""The text of a skeleton: a custom module, its spec, its weights and the call of `save`."""

from __future__ import annotations

import re
from pprint import pformat
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .skeleton import Sketch

_FILE = '''"""A custom module for {name}, written by carousel_models.save.

No manifest describes all of {name}. What does not fit is:
{problem}

Check the lines of `step`, above all those that say TODO. Then save the trained module:

    from {file} import save
    save(model, "models/{folder}")

A server imports this file by its name: carousel serve --allow-custom {file}:{step}
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

import carousel_models
from carousel_models.spec import CustomSpec, SelectArgmax, SelectFull, SelectTopK, StateDeclaration
from carousel_models.whole import own_rows

KWARGS = {kwargs}
"""The sizes of the layers, which a package holds beside the weights."""


class {step}(nn.Module):
    """One step of {name}."""

    def __init__(self, {arguments}):
        super().__init__()
{constructors}

    def step(self, x, state):
        """x [B, {inputs}] and the states [B, …] → the row [B, {width}] and the new states."""
        {states} = state
{lines}
        return {result}, {returned}


SPEC = CustomSpec(
    module="{file}:{step}",
    kwargs=KWARGS,
    states=(
{declarations}
    ),
    width={width},
)


def converted(model):
    """The step with the weights of a trained {name}."""
    step = {step}(**KWARGS).eval()
    weights = model.state_dict()
    step.load_state_dict(
        {{
{tensors}
        }}
    )
    return step


def save(model, path, **options):
    """Writes a package, and compares it with the module at every step."""
    weights = model.state_dict()
    return carousel_models.save(
        path,
        stack=converted(model),
        custom=SPEC,
{save}
        **options,
    )
'''


def custom_module(
    sketch: Sketch,
    name: str,
    file: str,
    problem: str,
    result: tuple[str, int],
    ends: dict[str, str],
) -> str:
    """The text of a skeleton.

    Args:
        sketch: the code and the layers of the step.
        name: class of the user's module.
        file: name of the Python module.
        problem: what a manifest cannot describe.
        result: the variable with the step's row, and its width.
        ends: further arguments of `save`, as Python.
    """
    states = list(sketch.states)
    together = f"({', '.join(states)},)"
    return _FILE.format(
        name=name, file=file, step=f"{name}Step", folder=re.sub(r"\W", "-", name).lower(),
        problem=_wrapped(problem),
        kwargs=pformat({n: sizes for n, (_, sizes) in sketch.modules.items()}, sort_dicts=False),
        arguments=", ".join(sketch.modules),
        constructors=_indented(8, (_constructor(n, k) for n, (k, _) in sketch.modules.items())),
        inputs=sketch.inputs, width=result[1], result=result[0],
        states=together, returned=together,
        lines=_indented(8, sketch.lines),
        declarations=_indented(
            8, (f"StateDeclaration(name={n!r}, shape={s!r})," for n, s in sketch.states.items())
        ),
        tensors=_indented(12, (f"{ours!r}: {source}," for ours, source in sketch.tensors.items())),
        save=_indented(8, (f"{key}={value}," for key, value in ends.items())),
    )  # fmt: skip


def _constructor(name: str, kind: str) -> str:
    if kind == "buffer":
        return f'self.register_buffer("{name}", torch.zeros({name}["shape"]))'
    return f"self.{name} = {kind}(**{name})"


def _indented(spaces: int, lines: Any) -> str:
    return "\n".join(" " * spaces + line for line in lines)


def _wrapped(text: str) -> str:
    words, lines = text.replace('"""', "'''").split(), [""]
    for word in words:
        if len(lines[-1]) + len(word) > 100:
            lines.append("")
        lines[-1] += (" " if lines[-1] else "") + word
    return "\n".join(f"    {line}" for line in lines)
