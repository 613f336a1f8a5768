"""Makes parts of a stack from torch modules, and from step graphs in files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError
from torch import Tensor, nn

from .cell_modules import CELL_MODULES
from .cells import MODULES
from .chain_parts import ConvPart, LayersPart, RowConvPart, RowsPart
from .errors import PackageError
from .from_torch import Layered, convert_rows, convert_stack
from .given_parts import GivenPart
from .program_spec import ProgramPart
from .wrappers import bare

From = str | Sequence[str]
"""The names of the parts whose rows a part reads, or one name. None are the part before."""


def part(
    name: str,
    module: nn.Module | Sequence[nn.Module],
    from_: From = (),
    *,
    inside: bool = False,
) -> GivenPart:
    """A part of a stack from torch modules, for `save(stack=[…])`.

    Args:
        name: of the part.
        module: a recurrent module or several one after the other, an nn.Conv1d, a linear layer, an
            activation, a norm, or an nn.Sequential of these three.
        from_: the parts whose rows it reads, joined in this order; "input" is the stack's input. The default
            is the part before.
        inside: True if an nn.Conv1d runs inside each row, whose channels stand one after the other. Otherwise
            it runs over time, and each number of a row is a channel.

    Raises:
        PackageError: a part cannot be such a module, or a convolution over time reads later rows.
    """
    module = bare(module)
    modules = [module] if isinstance(module, nn.Module) else list(module)
    fields = {"name": name, "from": _names(from_)}
    try:
        if all(isinstance(one, (*MODULES, *CELL_MODULES)) for one in modules):
            return _layers(fields, modules)
        if len(modules) == 1 and isinstance(modules[0], nn.Conv1d):
            return (_inside if inside else _over_time)(fields, modules[0])
        named = convert_rows(nn.Sequential(*modules))
        if named is None:
            kinds = ", ".join(type(one).__name__ for one in modules)
            raise PackageError(
                f"part {name!r} cannot be {kinds}; give recurrent modules, an nn.Conv1d, or linear layers, "
                "activations and norms; others are a custom module or a program"
            )
        made = RowsPart.model_validate({**fields, "parts": tuple(one for one, _ in named)})
    except ValidationError as error:
        raise PackageError(f"part {name!r}: {_problems(error)}") from error
    tensors = {
        f"{number}.{key}": value
        for number, (_, stored) in enumerate(named)
        for key, value in stored.items()
    }
    width = _first_width(modules)
    return GivenPart(made, width, tensors, tuple(modules))


def program(
    name: str,
    path: Path | str,
    from_: From = (),
    *,
    note: Callable[[str], object] = lambda _: None,
    **options: Any,
) -> GivenPart:
    """A part of a stack from a step graph in an ONNX, TorchScript or `.pt2` file, for `save(stack=[…])`.

    Args:
        name: of the part.
        path: the file. It goes into the package as it is.
        from_: as of `part`.
        note: receives sentences for the user: what was found, and what a step costs.
        options: those of `import_file` for such files: state, constant, context, shape, input and output.

    Raises:
        PackageError: the file is of another kind or damaged, or the roles of its inputs and outputs are not
            clear.
        OSError: the file cannot be read.
    """
    from .importing.readers import READERS, STEP_GRAPHS, reader_of, taken

    path = Path(path)
    end, _ = reader_of(path, READERS)
    if end not in STEP_GRAPHS:
        raise PackageError(f"{path.name} is no step graph; import it with `carousel models import`")
    imported = STEP_GRAPHS[end].load()(path, **taken(end, options, STEP_GRAPHS))
    for text in imported.notes:
        note(f"{name}: {text}")
    (found,) = imported.parts["parts"]
    fields = {key: getattr(found, key) for key in ProgramPart.model_fields}
    try:
        made = ProgramPart.model_validate({**fields, "name": name, "from_": _names(from_)})
    except ValidationError as error:
        raise PackageError(f"part {name!r}: {_problems(error)}") from error
    return GivenPart(made, made.input.elements - made.context, files=imported.files)


def _layers(fields: Mapping[str, Any], modules: Sequence[nn.Module]) -> GivenPart:
    layers, stored = convert_stack(cast("Layered", modules), residual=False, norms=())
    tensors = {key.removeprefix("stack."): value for key, value in stored.items()}
    made = LayersPart.model_validate({**fields, "layers": layers})
    return GivenPart(made, int(modules[0].input_size), tensors, tuple(modules))  # type: ignore[arg-type]


def _over_time(fields: Mapping[str, Any], conv: nn.Conv1d) -> GivenPart:
    """A causal convolution: without padding, or padded so that only its first rows count."""
    made = ConvPart.model_validate({**fields, **_window_of(conv)})
    padding = _padding(conv, made.reach)
    if conv.stride[0] != 1 or padding not in (0, made.reach):
        raise PackageError(
            f"part {made.name!r} is a convolution with stride {conv.stride[0]} and padding {conv.padding!r}, "
            "but a row of a session depends on earlier rows only, and each step gives one; give stride 1 and "
            "no padding or (kernel − 1)·dilation of it, whose last rows are cut off"
        )
    return GivenPart(made, conv.in_channels, _stored(conv), (conv,))


def _inside(fields: Mapping[str, Any], conv: nn.Conv1d) -> GivenPart:
    window = _window_of(conv)
    reach = (window["kernel"] - 1) * window["dilation"]
    more = {
        "inputs": conv.in_channels,
        "stride": conv.stride[0],
        "padding": _padding(conv, reach),
    }
    made = RowConvPart.model_validate({**fields, **window, **more})
    return GivenPart(made, 0, _stored(conv), (conv,))


def _window_of(conv: nn.Conv1d) -> dict[str, Any]:
    return {
        "channels": conv.out_channels,
        "kernel": conv.kernel_size[0],
        "dilation": conv.dilation[0],
        "groups": conv.groups,
        "bias": conv.bias is not None,
    }


def _padding(conv: nn.Conv1d, reach: int) -> int:
    """Zeros at each end.

    Raises:
        PackageError: the padding has other numbers, or the ends get different ones.
    """
    padding: Any = conv.padding
    found = {"valid": 0, "same": reach / 2}[padding] if isinstance(padding, str) else padding[0]
    if found != int(found) or (found and conv.padding_mode != "zeros"):
        raise PackageError(
            f"a convolution with padding {padding!r} of mode {conv.padding_mode!r} cannot be a part; use "
            "equally many zeros at both ends"
        )
    return int(found)


def _stored(conv: nn.Conv1d) -> dict[str, Tensor]:
    return {"weight": conv.weight} | ({} if conv.bias is None else {"bias": conv.bias})


def _first_width(modules: Sequence[nn.Module]) -> int:
    """The width of a chain that begins with a linear layer. 0 for others."""
    flat = [one for module in modules for one in module.modules()]
    linear = next((one for one in flat if isinstance(one, nn.Linear)), None)
    return 0 if linear is None else linear.in_features


def _names(from_: From) -> tuple[str, ...]:
    return (from_,) if isinstance(from_, str) else tuple(from_)


def _problems(error: ValidationError) -> str:
    found = []
    for problem in error.errors(include_url=False):
        field = ".".join(map(str, problem["loc"]))
        text = problem["msg"].removeprefix("Value error, ")
        found.append(f"{field}: {text}" if field else text)
    return "; ".join(found)
