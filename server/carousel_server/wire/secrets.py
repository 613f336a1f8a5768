"""Files that say who may come in: tokens, and the certificates of TLS. Each is checked when it is read."""

from __future__ import annotations

import re
import ssl
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .options import TlsFiles, TlsPaths

_TENANT = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


class SecretError(ValueError):
    """A file that cannot be used. The first line says the cause, the second the fix."""


def read_tokens(path: Path) -> dict[bytes, str]:
    """Tenant by SHA-256 digest of its token, from a TOML file.

    A line is `tenant = "hex of the hash"`, or a list of hashes while a token is being replaced.

    Raises:
        SecretError: the file cannot be read, has no token, or names one hash twice.
    """
    try:
        lines = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise _unreadable(error) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _bad_tokens(path, f"it is not TOML: {error}") from error
    tokens: dict[bytes, str] = {}
    for tenant, given in lines.items():
        for digest in _digests(path, tenant, given):
            if digest in tokens:
                raise _bad_tokens(path, f"a token of '{tenant}' stands there twice")
            tokens[digest] = tenant
    if not tokens:
        raise _bad_tokens(path, "it has no token, and would let everybody in")
    return tokens


def _digests(path: Path, tenant: str, given: Any) -> list[bytes]:
    hashes = given if isinstance(given, list) else [given]
    if not _TENANT.fullmatch(tenant):
        raise _bad_tokens(path, f"'{tenant}' is no name of a tenant")
    if not hashes or not all(isinstance(h, str) and _SHA256.fullmatch(h) for h in hashes):
        raise _bad_tokens(path, f"'{tenant}' has no SHA-256 in hex")
    return [bytes.fromhex(digest) for digest in hashes]


def read_tls(paths: TlsPaths) -> TlsFiles:
    """The PEM files of a server, checked: gRPC would only say that it cannot listen.

    Raises:
        SecretError: a file cannot be read or used, or certificate and key do not match.
    """
    try:
        files = TlsFiles(
            cert=paths.cert.read_bytes(),
            key=paths.key.read_bytes(),
            client_ca=None if paths.client_ca is None else paths.client_ca.read_bytes(),
            paths=paths,
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # An empty password, so that an encrypted key is an error and not a question on the terminal.
        context.load_cert_chain(paths.cert, paths.key, password="")
        if paths.client_ca is not None:
            context.load_verify_locations(paths.client_ca)
    except ssl.SSLError as error:
        raise SecretError(
            f"tls_cert, tls_key or tls_client_ca cannot be used: {error.reason or error}\n"
            "name PEM files: a certificate chain, its key without a passphrase, an authority"
        ) from error
    except OSError as error:
        raise _unreadable(error) from error
    return files


def stamp(*paths: Path | None) -> Mapping[Path, tuple[int, ...]]:
    """What changes when a file is written or replaced; a file that is away has an empty stamp."""
    stamps: dict[Path, tuple[int, ...]] = {}
    for path in paths:
        if path is not None:
            try:
                facts = path.stat()
                stamps[path] = (facts.st_mtime_ns, facts.st_size, facts.st_ino, facts.st_dev)
            except OSError:
                stamps[path] = ()
    return stamps


def _unreadable(error: OSError) -> SecretError:
    return SecretError(f"cannot read {error.filename}: {error.strerror}\nname a file that is there")


def _bad_tokens(path: Path, why: str) -> SecretError:
    return SecretError(
        f"tokens_file {path} cannot be used: {why}\n"
        'write lines such as tenant = "SHA-256 of its token, in hex"'
    )
