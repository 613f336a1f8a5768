"""The measured LSTM as a user of Triton's Python backend would serve it; runs inside of Triton.

The weights are those of the Carousel package that the model's configuration names. States are rows of one
tensor; small batches go through cells and large ones through nn.LSTM, whichever is faster with torch.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import torch
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]
from safetensors.torch import load_file

_ROWS = 4096
_CELLS_UP_TO = 16
_LAYER_NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class TritonPythonModel:
    """What Triton looks for in this file."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the weights."""
        torch.set_num_threads(1)
        torch.set_grad_enabled(False)
        parameters = json.loads(args["model_config"])["parameters"]
        tensors = load_file(parameters["weights"]["string_value"])
        self.lstm, self.cells, self.head = _modules(tensors)
        layers, hidden = len(self.cells), self.lstm.hidden_size
        self.h = torch.zeros(layers, _ROWS, hidden)
        self.c = torch.zeros(layers, _ROWS, hidden)
        self.rows: dict[int, int] = {}
        self.free = list(range(_ROWS))
        print(f"model {args['model_name']} with torch {torch.__version__}", file=sys.stderr)

    def execute(self, requests: list[Any]) -> list[Any]:
        """One step of each request's sequence."""
        rows, ended, started = [], [], []
        inputs = np.concatenate([_input(request, "x") for request in requests])
        for request in requests:
            sequence = int(_input(request, "CORRID").item())
            if _input(request, "START").item():
                row = self.rows.setdefault(sequence, -1)
                if row < 0:
                    row = self.rows[sequence] = self.free.pop()
                started.append(row)
            rows.append(self.rows[sequence])
            if _input(request, "END").item():
                ended.append(sequence)
        if started:
            self.h[:, started] = 0.0
            self.c[:, started] = 0.0
        outputs = self.step(torch.from_numpy(inputs), torch.tensor(rows)).numpy()
        for sequence in ended:
            self.free.append(self.rows.pop(sequence))
        tensors = (pb_utils.Tensor("y", outputs[i : i + 1]) for i in range(len(requests)))
        return [pb_utils.InferenceResponse([tensor]) for tensor in tensors]

    def step(self, x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Gather, step, scatter. x is float32[B, width], rows int64[B]."""
        h, c = self.h[:, rows], self.c[:, rows]
        if len(x) <= _CELLS_UP_TO:
            for layer, cell in enumerate(self.cells):
                x, c[layer] = cell(x, (h[layer], c[layer]))
                h[layer] = x
        else:
            y, (h, c) = self.lstm(x[None], (h, c))
            x = y[0]
        self.h[:, rows], self.c[:, rows] = h, c
        return self.head(x)  # type: ignore[no-any-return]


def _input(request: Any, name: str) -> Any:
    return pb_utils.get_input_tensor_by_name(request, name).as_numpy()


def _modules(
    tensors: dict[str, torch.Tensor],
) -> tuple[torch.nn.LSTM, list[torch.nn.LSTMCell], torch.nn.Linear]:
    """The package's tensors in torch's modules."""
    layers = sum(name.endswith("weight_ih") for name in tensors)
    gates, width = tensors["stack.0.forward.weight_ih"].shape
    hidden = gates // 4
    lstm = torch.nn.LSTM(width, hidden, layers)
    cells = [torch.nn.LSTMCell(width if n == 0 else hidden, hidden) for n in range(layers)]
    for n, cell in enumerate(cells):
        for name in _LAYER_NAMES:
            value = tensors[f"stack.{n}.forward.{name}"]
            getattr(cell, name).copy_(value)
            getattr(lstm, f"{name}_l{n}").copy_(value)
    head = torch.nn.Linear(hidden, len(tensors["head.0.bias"]))
    head.weight.copy_(tensors["head.0.weight"])
    head.bias.copy_(tensors["head.0.bias"])
    return lstm, cells, head
