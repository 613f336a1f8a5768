"""The base of modules that train a cell which torch does not have."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from carousel_models.cell_facts import Cell, OptionValue, facts_of
from carousel_models.layer_spec import LayerSpec

from .interface import CellCode, State
from .whole import run_whole


class RecurrentLayers(nn.Module):
    """Layers of one cell, with the arguments, the shapes and the results of torch's recurrent modules.

    Weights are named as in a package, with the layer's number, such as `weight_ih_l0`, and `_reverse` for the
    backward direction. `forward(x, state=None)` takes x float32[T, N, F], or [N, T, F] with `batch_first`. It
    returns (y, state), with y [T, N, width × directions]. The state is one tensor [layers × directions, N,
    *shape] if the cell has one state, else a tuple of them. Without a state it begins with zeros. Under
    autocast, the products with x run in 16 bits, and all else in the type of the weights.

    Args:
        input_size: width of x.
        hidden_size: width of a layer.
        num_layers: layers, one after the other.
        bias: True for layers with biases.
        batch_first: True if x and y have the batch before the time.
        options: `bidirectional=True` for a second direction, backwards in time; `proj_size`, the width of the
            projected output, where the cell has one; and the cell's own options.

    Raises:
        ValueError: the cell has no such option, projection or size.
    """

    cell: ClassVar[Cell]
    code: ClassVar[CellCode]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        **options: OptionValue,
    ) -> None:
        super().__init__()
        bidirectional = bool(options.pop("bidirectional", False))
        proj_size = int(options.pop("proj_size", 0))
        self.spec = LayerSpec(
            cell=self.cell, hidden=hidden_size, bias=bias, bidirectional=bidirectional,
            proj_size=proj_size, options=options,
        )  # fmt: skip
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.bidirectional = bias, batch_first, bidirectional
        self.proj_size, self.options = proj_size, self.spec.options
        self._suffixes = ("", "_reverse") if bidirectional else ("",)
        for layer in range(num_layers):
            shapes = self.shapes(input_size if layer == 0 else self.spec.width)
            for suffix in self._suffixes:
                for name, shape in shapes.items():
                    value = nn.Parameter(torch.empty(shape))
                    self.register_parameter(f"{name}_l{layer}{suffix}", value)
        self.parameter_names = frozenset(name for name, _ in self.named_parameters())
        self.reset_parameters()

    def shapes(self, inputs: int) -> dict[str, tuple[int, ...]]:
        """The parameters of one direction of a layer by name. By default they are the stored weights."""
        weights = facts_of(self.cell).weights(self.spec, inputs)
        return {name: weight.shape for name, weight in weights.items()}

    def stored(self, layer: int, suffix: str = "") -> dict[str, Tensor]:
        """The weights of one direction of a layer, named as in a package. By default they are parameters."""
        end = f"_l{layer}{suffix}"
        named = self.named_parameters(recurse=False)
        return {name.removesuffix(end): value for name, value in named if name.endswith(end)}

    def named(self, name: str) -> list[nn.Parameter]:
        """The parameters of this name, those of every layer and direction."""
        return [value for key, value in self.named_parameters() if key.startswith(f"{name}_l")]

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws all parameters, uniform in ±1/√hidden_size, as torch's modules do."""
        for value in self.parameters():
            value.uniform_(-(self.hidden_size**-0.5), self.hidden_size**-0.5)

    def forward(
        self, x: Tensor, state: Tensor | State | None = None
    ) -> tuple[Tensor, Tensor | State]:
        """Runs whole sequences of equal length. The class has the shapes."""
        x = x.transpose(0, 1) if self.batch_first else x
        starts = self._starts(x, state)
        finals: list[State] = []
        for layer in range(self.num_layers):
            outputs = []
            for suffix in self._suffixes:
                start = tuple(tensor[len(finals)] for tensor in starts)
                y, final = self._direction(x, start, layer, suffix)
                outputs.append(y)
                finals.append(final)
            x = torch.cat(outputs, dim=-1)
        ends = tuple(torch.stack(tensors) for tensors in zip(*finals, strict=True))
        return x.transpose(0, 1) if self.batch_first else x, ends if len(ends) > 1 else ends[0]

    def _starts(self, x: Tensor, state: Tensor | State | None) -> State:
        if state is not None:
            return state if isinstance(state, tuple) else (state,)
        count = self.num_layers * len(self._suffixes)
        like = next(self.parameters())
        return tuple(like.new_zeros(count, x.shape[1], *shape) for _, shape, _ in self.spec.states)

    def _direction(self, x: Tensor, state: State, layer: int, suffix: str) -> tuple[Tensor, State]:
        weights = self.code.prepare(self.spec, self.stored(layer, suffix))
        share = self.code.share(x, weights).to(state[0].dtype)
        with torch.autocast(x.device.type, enabled=False):
            if not suffix:
                return run_whole(self.code, share, state, weights)
            y, state = run_whole(self.code, share.flip(0), state, weights)
            return y.flip(0), state
