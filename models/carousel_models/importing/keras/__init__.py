"""Reads models of Keras 2 and 3 from `.keras`, `.h5` and `.weights.h5`. Keras itself is not used."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from carousel_models.errors import PackageError
from carousel_models.importing.assembly import assemble
from carousel_models.importing.imported import Imported
from carousel_models.importing.ops import Chain

from .archive import KerasFile, as_json, opened
from .chain import ChainBuilder
from .graph import needed, nodes_of
from .original import original_of
from .reading import Reading


def read(
    path: Path,
    *,
    config: Path | str | None = None,
    recurrent_activation: str | None = None,
    unpadded: bool = False,
) -> Imported:
    """Reads a Sequential model, or a functional one that is a chain with residuals.

    Args:
        path: the file.
        config: JSON of the model, for a file of weights alone: that of `model.to_json()`, or `config.json` of
            a `.keras` file.
        recurrent_activation: activation of the gates, where file and configuration do not have it.
        unpadded: the user sends no padding, so masks are left out.

    Raises:
        PackageError: the file is damaged, or a package cannot have one of its layers.
    """
    with opened(path) as file:
        model = _model(file, path, config)
        reading = Reading(_version(file, model), recurrent_activation, unpadded)
        try:
            parts, tensors = assemble(_chain(file, model, reading))
        except UNREADABLE as error:
            raise PackageError(
                f"the configuration in {config or path} is not one of Keras ({error!r}); save the model "
                "again, or report this if Keras can load it"
            ) from error
    original = partial(original_of, path, model, alone=file.model is None)
    return Imported(parts, tensors, tuple(reading.notes), original)


UNREADABLE = (TypeError, ValueError, KeyError, IndexError, AttributeError)
"""Errors of fields that have other types than Keras gives them."""


def _chain(file: KerasFile, model: dict[str, object], reading: Reading) -> Chain:
    nodes, output = nodes_of(model)
    arrays = file.weights([(node.kind, node.name) for node in nodes])
    of_layer = dict(zip((node.name for node in nodes), arrays, strict=True))
    builder = ChainBuilder(reading)
    for node in needed(nodes, output):
        builder.add(node, of_layer[node.name])
    return builder.chain(output)


def _model(file: KerasFile, path: Path, config: Path | str | None) -> dict[str, object]:
    if file.model is not None:
        if config is not None:
            raise PackageError(f"{path.name} has its own configuration; leave out --config")
        return file.model
    if config is None:
        raise PackageError(
            f"{path.name} holds weights alone; give the model's JSON, as model.to_json() gives it, with "
            "--config FILE"
        )
    return as_json(Path(config).read_bytes(), Path(config))


def _version(file: KerasFile, model: dict[str, object]) -> str:
    """The version of Keras that wrote the weights, else the one that wrote the configuration.

    Raises:
        PackageError: Keras 1 wrote the file.
    """
    version = file.version or str(model.get("keras_version", ""))
    if version.startswith("1."):
        raise PackageError(f"Keras {version} wrote the file; load and save it with Keras 2 first")
    return version
