"""Ordinary torch modules into layer specs and package tensors. torch's gate order is kept as it is."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from .cells import GRUResetBefore
from .errors import PackageError
from .spec import Activation, Head, LayerSpec, LinearHead, MlpHead, NoHead, Projection

Tensors = dict[str, Tensor]
RecurrentModule = nn.RNNBase | GRUResetBefore

_CELLS = {
    "RNN_TANH": "rnn_tanh",
    "RNN_RELU": "rnn_relu",
    "LSTM": "lstm",
    "GRU": "gru",
    "GRU_RESET_BEFORE": "gru_reset_before",
}
_ACTIVATIONS: dict[type[nn.Module], Activation] = {
    nn.ReLU: "relu",
    nn.Tanh: "tanh",
    nn.Sigmoid: "sigmoid",
    nn.GELU: "gelu",
    nn.SiLU: "silu",
}


def convert_stack(
    modules: RecurrentModule | Sequence[RecurrentModule],
    residual: bool | Sequence[bool],
    norms: Sequence[nn.LayerNorm | None],
) -> tuple[tuple[LayerSpec, ...], Tensors]:
    """Layers of one module, or of several one after the other.

    `residual` and `norms` count layers, not modules.

    Raises:
        PackageError: a module is of another kind, or the lists do not fit.
    """
    listed = [modules] if isinstance(modules, nn.Module) else list(modules)
    singles = [(module, layer) for module in listed for layer in range(_layers(module))]
    residuals = [residual] * len(singles) if isinstance(residual, bool) else list(residual)
    norms = list(norms) or [None] * len(singles)
    if not len(singles) == len(residuals) == len(norms):
        raise PackageError(
            f"{len(singles)} layers, {len(residuals)} residual flags, {len(norms)} norms: give one of "
            "each per layer"
        )
    specs: list[LayerSpec] = []
    tensors: Tensors = {}
    for number, (module, layer) in enumerate(singles):
        norm = norms[number]
        specs.append(
            LayerSpec(
                cell=_CELLS[module.mode],  # type: ignore[arg-type]
                hidden=module.hidden_size,
                bias=module.bias,
                bidirectional=module.bidirectional,
                proj_size=module.proj_size,
                residual=residuals[number],
                layer_norm=norm is not None,
            )
        )
        tensors |= _layer_tensors(number, module, layer)
        if norm is not None:
            tensors |= _norm_tensors(number, norm)
    return tuple(specs), tensors


def convert_projection(module: nn.Linear | None) -> tuple[Projection | None, Tensors]:
    """The input projection."""
    if module is None:
        return None, {}
    spec = Projection(width=module.out_features, bias=module.bias is not None)
    return spec, _with_bias("projection", module)


def convert_head(module: nn.Module | None) -> tuple[Head, Tensors]:
    """A linear layer, or a Sequential of linear layers with one kind of activation between them.

    Dropout and Identity are left out: they do nothing when a model is served.

    Raises:
        PackageError: the head has another form.
    """
    if module is None:
        return NoHead(), {}
    parts = list(module) if isinstance(module, nn.Sequential) else [module]
    parts = [part for part in parts if not isinstance(part, nn.Dropout | nn.Identity)]
    linears = [part for part in parts[::2] if isinstance(part, nn.Linear)]
    activations = {_ACTIVATIONS.get(type(part)) for part in parts[1::2]}
    if len(linears) != len(parts[::2]) or len(parts) % 2 == 0 or len(activations | {None}) > 2:
        raise PackageError(_head_problem(parts))
    tensors: Tensors = {}
    for number, part in enumerate(linears):
        tensors |= _with_bias(f"head.{number}", part)
    bias = {part.bias is not None for part in linears}
    if len(bias) > 1:
        raise PackageError("the linear layers of a head must all have a bias, or none of them")
    width = linears[-1].out_features
    if len(linears) == 1:
        return LinearHead(width=width, bias=bias.pop()), tensors
    (activation,) = activations
    if activation is None or any(getattr(p, "approximate", "none") != "none" for p in parts):
        raise PackageError(_head_problem(parts))
    hidden = tuple(part.out_features for part in linears[:-1])
    return MlpHead(hidden=hidden, width=width, activation=activation, bias=bias.pop()), tensors


def _head_problem(parts: Sequence[nn.Module]) -> str:
    return (
        f"the head {[type(part).__name__ for part in parts]} is not Linear, activation, Linear, … with "
        f"one of {', '.join(sorted(_ACTIVATIONS.values()))}; use that form or a custom module"
    )


def _layers(module: nn.Module) -> int:
    if not isinstance(module, nn.RNN | nn.LSTM | nn.GRU | GRUResetBefore):
        raise PackageError(
            f"the stack holds a {type(module).__name__}; give nn.RNN, nn.LSTM, nn.GRU or "
            "carousel_models.cells.GRUResetBefore, or save it with `custom`"
        )
    return module.num_layers


def _layer_tensors(number: int, module: RecurrentModule, layer: int) -> Tensors:
    tensors: Tensors = {}
    suffixes = {"forward": "", "backward": "_reverse"}
    for direction, suffix in suffixes.items():
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr"):
            value = getattr(module, f"{name}_l{layer}{suffix}", None)
            if value is not None:
                tensors[f"stack.{number}.{direction}.{name}"] = value
    return tensors


def _norm_tensors(number: int, norm: nn.LayerNorm) -> Tensors:
    if norm.eps != 1e-5 or len(norm.normalized_shape) != 1:
        raise PackageError("a LayerNorm must have weight and bias, eps 1e-5 and one dimension")
    return _with_bias(f"stack.{number}.norm", norm)


def _with_bias(name: str, module: nn.Linear | nn.LayerNorm) -> Tensors:
    bias: Tensor | None = module.bias
    return {f"{name}.weight": module.weight} | ({} if bias is None else {f"{name}.bias": bias})
