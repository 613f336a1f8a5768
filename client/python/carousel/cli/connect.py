"""Makes a client from the options. Its errors name the models that the server has."""

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
    """A client of the options' server, which is closed at the end. A lost connection is shown on stderr.

    Raises:
        CliError: the address is not valid, the TLS options cannot be used or do not match the server's,
            no server answers, or it does not serve the model. The fix then has the closest name.
    """
    import carousel

    checked(options.server)
    options = resolved(options)
    try:
        made = carousel.Client(options.server, token=options.token, tls=options.tls.for_sdk())
    except carousel.FieldInvalidError as error:
        raise usage_error(error.message, "see carousel --help for the TLS options") from error
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
                "start one with carousel serve, or name another one with --server HOST:PORT",
                ExitCode.UNREACHABLE,
            ) from error


def checked(server: str) -> None:
    """Checks the form of an address, or of several, before a connection is tried.

    Raises:
        CliError: it is neither HOST:PORT, nor a list of these, nor dns:///NAME:PORT.
    """
    if "," in server or server.startswith("dns:///"):
        _check_several(server)
        return
    host, _, port = server.rpartition(":")
    if "://" in server or not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise usage_error(
            f"'{server}' is not an address", "write it as HOST:PORT, as in localhost:50051"
        )


def _check_several(server: str) -> None:
    from carousel import FieldInvalidError
    from carousel._targets import target_of

    try:
        target_of(server)
    except FieldInvalidError as error:
        raise usage_error(
            error.message.partition("; ")[0],
            "write several servers as A:50051,B:50051, or all behind a name as dns:///NAME:50051",
        ) from error


def no_such_model(
    client: carousel.Client, options: Options, error: carousel.ModelNotFoundError
) -> CliError:
    """The error for an unknown model, with the names of the served ones."""
    served = [model.name for model in client.models()]
    wanted = error.metadata.get("model", "")
    cause = f"{options.server} has no model '{wanted}'" if wanted else error.message
    hint = (
        did_you_mean(wanted, served)
        or "the server has no models: start it with carousel serve --models DIR"
    )
    return CliError(cause, hint, ExitCode.REFUSED)


class Notes(logging.Handler):
    """Writes log records to stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one record."""
        note(f"carousel: {record.getMessage()}")


@contextmanager
def noted() -> Iterator[None]:
    """Shows the SDK's log on stderr until the end of the block."""
    logger, notes = logging.getLogger("carousel"), Notes(logging.INFO)
    former = logger.level
    logger.addHandler(notes)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(notes)
        logger.setLevel(former)
