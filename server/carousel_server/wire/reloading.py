"""Tokens and certificates that are read again while the server runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import grpc

from carousel_server.core.metering import WireMetrics

from .auth import Authenticator
from .options import TlsFiles, WireOptions
from .secrets import SecretError, read_tls, read_tokens, stamp

log = logging.getLogger("carousel.wire")


class Watched:
    """Files that are read again when one of them changes. A new version that is broken changes nothing."""

    def __init__(self, what: str, paths: tuple[Path | None, ...], read: Callable[[], str]) -> None:
        """`read` puts the files in force and says what they hold, or raises SecretError."""
        self.what = what
        self._paths = paths
        self._read = read
        self._stamp = stamp(*paths)

    def look(self) -> str | None:
        """Reads the files if they have changed. Returns what they hold; None if they have not.

        Raises:
            SecretError: the new files cannot be used. It is raised once for each change.
        """
        now = stamp(*self._paths)
        if now == self._stamp:
            return None
        self._stamp = now
        return self._read()


class Secrets:
    """The tokens and certificates of one wire, at their newest. On the loop, but for `_fetch`."""

    def __init__(
        self, options: WireOptions, authenticator: Authenticator, metrics: WireMetrics
    ) -> None:
        self._authenticator = authenticator
        self._metrics = metrics
        self._tls = options.tls
        # Each is told of every new version of the certificates.
        self.renewed: list[Callable[[TlsFiles], None]] = []
        # The certificates that gRPC has not been told of yet.
        self._untold: grpc.ServerCertificateConfiguration | None = None
        self._watched: list[Watched] = []
        if (tokens_file := options.tokens_file) is not None:
            self._watched.append(
                Watched("tokens", (tokens_file,), lambda: self._read_tokens(tokens_file))
            )
        if options.tls is not None and (paths := options.tls.paths) is not None:
            files = (paths.cert, paths.key, paths.client_ca)
            self._watched.append(Watched("tls", files, self._read_tls))

    def credentials(self) -> grpc.ServerCredentials:
        """What gRPC asks for certificates at each new connection."""
        assert self._tls is not None, "the options have no TLS"
        return grpc.dynamic_ssl_server_credentials(
            _configuration(self._tls),
            self._fetch,  # type: ignore[arg-type]  # None is allowed
            require_client_authentication=self._tls.client_ca is not None,
        )

    async def refresh(self) -> None:
        """Reads what has changed; to be called now and then. Never raises."""
        for watched in self._watched:
            try:
                held = await asyncio.to_thread(watched.look)
            except SecretError as error:
                cause = str(error).replace("\n", "; ")
                log.error("%s were not read again, the old ones count: %s", watched.what, cause)  # noqa: TRY400
                self._metrics.reloaded(watched.what, ok=False)
            else:
                if held is not None:
                    log.info("%s were read again: %s", watched.what, held)
                    self._metrics.reloaded(watched.what, ok=True)

    def _read_tokens(self, path: Path) -> str:
        tokens = read_tokens(path)
        self._authenticator.replace_tokens(tokens)
        return f"{len(tokens)} of {len(set(tokens.values()))} tenants"

    def _read_tls(self) -> str:
        assert self._tls is not None
        assert self._tls.paths is not None
        self._tls = read_tls(self._tls.paths)
        self._untold = _configuration(self._tls)
        for renewed in self.renewed:
            renewed(self._tls)
        return "for new connections"

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """Called by gRPC on a thread of its own; None where nothing has changed."""
        untold, self._untold = self._untold, None
        return untold


def _configuration(tls: TlsFiles) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(tls.key, tls.cert)], root_certificates=tls.client_ca
    )
