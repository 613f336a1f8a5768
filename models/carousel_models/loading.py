"""Loads packages into models, with all checks of a served model."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from .building import NOTHING_FOREIGN, Foreign, Materials, build_rows
from .contract import check_contract
from .custom import CUSTOM_PREFIX, UNROUNDED, custom_tensors, fill, import_custom
from .errors import PackageError
from .kernels import Kernel, Reference, choose
from .model import RecurrentModel
from .package import PROBE, TOKENIZER, WEIGHTS, package_file, read_manifest
from .probe import check_probe
from .programs.files import read_programs
from .spec import Manifest
from .tensors import expected_tensors
from .tokenizer import Tokenizer, has_file, load_tokenizer
from .weights import check_finite, fingerprint, read_tensors


@dataclass(frozen=True, slots=True)
class CheckReport:
    """The result of `check`. If `error` is "", the package is good and the other fields are set."""

    path: Path
    error: str
    manifest: Manifest | None = None
    parameters: int = 0
    state_bytes: int = 0
    probe_error: float = float("nan")

    @property
    def ok(self) -> bool:
        """True if the package can be served."""
        return not self.error


def load(
    path: Path | str,
    *,
    device: str | torch.device = "cpu",
    allow_custom: Collection[str] = (),
    kernel: str = "auto",
) -> RecurrentModel:
    """Loads a package and checks it: files, shapes, fingerprint, then the probe's outputs.

    Args:
        path: the package's folder.
        device: of the weights.
        allow_custom: import names ("module:Class") of custom modules that may be imported. Importing
            runs their code, so this is the operator's decision, never the package's.
        kernel: computes steps: "reference", "cpu", "cuda" or "auto". See `kernels.choose`.

    Raises:
        PackageError: the package is damaged, unknown or not allowed. It has cause and fix.
        KernelError: this machine cannot run the kernel.
    """
    return _load(Path(path), torch.device(device), allow_custom, kernel)[0]


def check(
    path: Path | str, *, device: str | torch.device = "cpu", allow_custom: Collection[str] = ()
) -> CheckReport:
    """Loads a package and returns the result instead of raising errors."""
    path = Path(path)
    try:
        model, error = _load(path, torch.device(device), allow_custom, "auto")
    except PackageError as refused:
        return CheckReport(path, str(refused))
    except OSError as unreadable:
        return CheckReport(path, f"{path} cannot be read: {unreadable}; give yourself the right to")
    return CheckReport(path, "", model.manifest, model.parameters, model.state_bytes, error)


def build(
    manifest: Manifest,
    tensors: dict[str, Tensor],
    *,
    foreign: Foreign = NOTHING_FOREIGN,
    tokenizer: Tokenizer | None = None,
    kernel: Kernel | None = None,
    device: torch.device | None = None,
) -> RecurrentModel:
    """A model from parts in memory. The tensors are those of the package, all on one device.

    The reference kernel computes steps, unless another one is given. The device is that of the tensors, so
    it must be given where there are none.
    """
    kernel = kernel or Reference()
    device = device or next((t.device for t in tensors.values()), torch.device("cpu"))
    rows = build_rows(manifest, Materials(tensors, foreign, kernel, device))
    return RecurrentModel(
        manifest, tensors, rows, device=device, tokenizer=tokenizer, kernel=kernel
    )


def build_in_float32(
    manifest: Manifest,
    tensors: Mapping[str, Tensor],
    foreign: Foreign,
    device: torch.device | None = None,
) -> RecurrentModel:
    """A model with float32 matrices for any type, so that rounding hides no difference."""
    manifest = manifest.model_copy(update={"dtype": "float32"})
    exact = {
        name: tensor if name.startswith(UNROUNDED) else tensor.float()
        for name, tensor in tensors.items()
    }
    return build(manifest, exact, foreign=foreign, device=device)


def _load(
    package: Path, device: torch.device, allow_custom: Collection[str], wanted: str
) -> tuple[RecurrentModel, float]:
    manifest = read_manifest(package)
    custom = None
    if manifest.custom is not None:
        custom = import_custom(manifest.custom, allow_custom, device)
    return prove(package, custom, device=device, kernel=wanted)


def prove(
    package: Path,
    custom: nn.Module | None,
    *,
    device: torch.device,
    kernel: str = "auto",
) -> tuple[RecurrentModel, float]:
    """Loads and checks a package whose custom module exists already.

    Args:
        package: its folder.
        custom: the module that the manifest names, in eval mode and on the device; filled here.
        device: where the weights go.
        kernel: what computes steps.

    Returns:
        The model, and the greatest relative difference from its probe.

    Raises:
        PackageError: see `load`.
        KernelError: this machine cannot run the kernel.
    """
    manifest = read_manifest(package)
    expected = expected_tensors(manifest)
    if custom is not None:
        expected |= custom_tensors(custom)
    probe = package_file(package, PROBE)
    tensors = read_tensors(package_file(package, WEIGHTS), expected, device)
    found = fingerprint(manifest.architecture, tensors)
    if found != manifest.fingerprint:
        raise PackageError(
            f"{package}: weights and architecture have fingerprint {found[:12]}…, the manifest says "
            f"{manifest.fingerprint[:12]}…; a file was changed or damaged: copy the package again"
        )
    check_finite(package_file(package, WEIGHTS), tensors, _unbounded(manifest))
    if custom is not None:
        fill(custom, tensors)
    foreign = Foreign(custom, read_programs(package, manifest.parts, device))
    if device.type == "cuda":
        # float32 means float32: cuDNN's recurrent kernels would round to TF32 by default.
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
    model = build(
        manifest,
        tensors,
        foreign=foreign,
        tokenizer=_tokenizer(package, manifest),
        kernel=choose(kernel, device),
        device=device,
    )
    error = check_probe(model, probe)
    if manifest.foreign:
        exact = build_in_float32(manifest, tensors, foreign, device)
        check_contract(exact, lambda: foreign.shared)
    return model, error


def _unbounded(manifest: Manifest) -> tuple[str, ...]:
    """Names of the tensors, or their beginnings, that may hold infinities."""
    free = {state.name for state in manifest.states if not state.finite}
    return CUSTOM_PREFIX, *(
        one.key(name) for one in manifest.initial for name in one.stored if name in free
    )


def _tokenizer(package: Path, manifest: Manifest) -> Tokenizer | None:
    path = package_file(package, TOKENIZER) if has_file(manifest.tokenizer) else package
    tokenizer = load_tokenizer(manifest.tokenizer, path)
    if tokenizer is not None and tokenizer.vocabulary > manifest.vocabulary:
        raise PackageError(
            f"{package}: the tokenizer has {tokenizer.vocabulary} tokens, the model only "
            f"{manifest.vocabulary}; they do not belong together"
        )
    return tokenizer
