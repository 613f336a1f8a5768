"""From options to a connected client, with errors that name what the server has instead."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .exits import CliError, ExitCode
from .options import Options
from .suggest import did_you_mean

if TYPE_CHECKING:
    import carousel


@contextmanager
def connected(options: Options) -> Iterator[carousel.Client]:
    """A client for the server that the options name; closed at the end.

    Raises:
        CliError: nobody answers; or the server does not know the model: the fix names the closest.
    """
    import carousel

    with carousel.Client(options.server, token=options.token) as client:
        try:
            yield client
        except carousel.ModelNotFoundError as error:
            raise no_such_model(client, options, error) from error
        except carousel.ServerUnreachableError as error:
            raise CliError(
                f"no server answers at {options.server}",
                "start one with carousel serve, or name another with --server HOST:PORT",
                ExitCode.UNREACHABLE,
            ) from error


def no_such_model(
    client: carousel.Client, options: Options, error: carousel.ModelNotFoundError
) -> CliError:
    """The refusal, with the names that the server serves."""
    served = [model.name for model in client.models()]
    wanted = error.metadata.get("model", "")
    cause = f"{options.server} serves no model '{wanted}'" if wanted else error.message
    hint = did_you_mean(wanted, served) or "the server has no models: serve --models DIR"
    return CliError(cause, hint, ExitCode.REFUSED)
