"""The refusal of a module that a manifest cannot describe, with a custom module to go on from."""

from __future__ import annotations

from pathlib import Path

from carousel_models.errors import PackageError

from .chains import MisfitError
from .module import Attempt
from .skeleton import NoSkeletonError, skeleton_of


def refusal(attempt: Attempt, path: Path | str | None) -> PackageError:
    """The error for a module.

    Args:
        attempt: the run that went furthest.
        path: a file for the skeleton.

    Returns:
        An error that names the operation and the way on. The skeleton is written before.
    """
    misfit = attempt.misfit
    assert misfit is not None
    return PackageError(
        f"no package has all of this module: {misfit}; {_way(attempt, misfit, path)}"
    )


def _way(attempt: Attempt, misfit: MisfitError, path: Path | str | None) -> str:
    file = Path("step.py" if path is None else path)
    if not file.stem.isidentifier() or file.suffix != ".py":
        return (
            f"a skeleton is a module of Python, and {file.name!r} cannot be imported; give NAME.py"
        )
    try:
        text = skeleton_of(attempt, misfit, file.stem)
    except NoSkeletonError as reason:
        return f"there is no custom module to go on from, because {reason}"
    if path is None:
        return "save it as a custom module: skeleton='step.py' writes one that is filled in, to go on from"
    if file.exists():
        return f"{file} exists and was left as it is; give another file for the custom module"
    file.write_text(text)
    left = text.count("# TODO")
    done = f"TODO is at {left} places of it" if left else "it is complete"
    return f"{file} has a custom module with these weights, and {done}: run its save()"
