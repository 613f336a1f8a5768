"""From options to a connected client, with errors that name what the server has instead."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .exits import CliError, ExitCode, did_you_mean, usage_error
from .options import Options, resolved
from .printing import note

if TYPE_CHECKING:
    import carousel


@contextmanager
def connected(options: Options) -> Iterator[carousel.Client]:
    """A client for the server that the options name; closed at the end. A lost server is told on stderr.

    Raises:
        CliError: the address is none; the TLS options cannot be used, or the server does not agree with
            them; nobody answers; or the server does not know the model, and the fix names the closest.
    """
    import carousel

    checked(options.server)
    options = resolved(options)
    try:
        made = carousel.Client(options.server, token=options.token, tls=options.tls.for_sdk())
    except carousel.FieldInvalidError as error:
        raise usage_error(error.message, "see carousel --help for the options of TLS") from error
    with noted(), made as client:
        try:
            yield client
        except carousel.ModelNotFoundError as error:
            raise no_such_model(client, options, error) from error
        except carousel.TlsError as error:
            raise CliError(error.message, error.fix, ExitCode.UNREACHABLE) from error
        except carousel.ServerUnreachableError as error:
            raise CliError(
                f"no server answers at {options.server}",
                "start one with carousel serve, or name another with --server HOST:PORT",
                ExitCode.UNREACHABLE,
            ) from error


def checked(server: str) -> None:
    """Refuses an address that cannot be one, before anybody waits for it.

    Raises:
        CliError: it is not HOST:PORT.
    """
    host, _, port = server.rpartition(":")
    if "://" in server or not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise usage_error(
            f"'{server}' is no address", "write it as HOST:PORT, as in localhost:50051"
        )


def no_such_model(
    client: carousel.Client, options: Options, error: carousel.ModelNotFoundError
) -> CliError:
    """The refusal, with the names that the server serves."""
    served = [model.name for model in client.models()]
    wanted = error.metadata.get("model", "")
    cause = f"{options.server} serves no model '{wanted}'" if wanted else error.message
    hint = did_you_mean(wanted, served) or "the server has no models: serve --models DIR"
    return CliError(cause, hint, ExitCode.REFUSED)


class Notes(logging.Handler):
    """Writes each record as a line for people."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one record."""
        note(f"carousel: {record.getMessage()}")


@contextmanager
def noted() -> Iterator[None]:
    """Inside the block the SDK's log goes to stderr."""
    logger, notes = logging.getLogger("carousel"), Notes(logging.INFO)
    former = logger.level
    logger.addHandler(notes)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(notes)
        logger.setLevel(former)
