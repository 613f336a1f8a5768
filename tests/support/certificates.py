"""Certificates for tests, made by the openssl command."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

NAMES = "IP:127.0.0.1,DNS:localhost"
NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")

needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="the openssl command makes the certificates"
)


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


def make_certificates(folder: Path, names: str = NAMES) -> Path:
    """ca, server and client: .pem and .key of each; the latter two are signed by the first."""
    openssl(
        folder, "req", "-x509", *NEW_KEY, "-keyout", "ca.key", "-out", "ca.pem",
        "-days", "2", "-subj", "/CN=test authority",
    )  # fmt: skip
    (folder / "names").write_text(f"subjectAltName={names}")
    for who in ("server", "client"):
        openssl(
            folder, "req", *NEW_KEY, "-keyout", f"{who}.key", "-out", f"{who}.csr",
            "-subj", f"/CN={who}",
        )  # fmt: skip
        openssl(
            folder, "x509", "-req", "-in", f"{who}.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
            "-CAcreateserial", "-days", "2", "-extfile", "names", "-out", f"{who}.pem",
        )  # fmt: skip
    return folder
