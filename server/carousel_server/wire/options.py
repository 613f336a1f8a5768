"""What the wire needs to know at start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from carousel_server.core.quotas import NO_LIMITS, TenantLimits


@dataclass(frozen=True, slots=True)
class TlsPaths:
    """Where PEM files are, to be read again when they change."""

    cert: Path
    key: Path
    client_ca: Path | None = None


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM bytes. With `client_ca`, clients must present a certificate signed by it."""

    cert: bytes
    key: bytes
    client_ca: bytes | None = None
    paths: TlsPaths | None = None


@dataclass(frozen=True, slots=True)
class WireOptions:
    """Known at start, never changed. Settings of the same names fill it (see config.py).

    Attributes:
        host: address to listen on.
        port: 0 takes a free one.
        shared_port: other front ends of this server listen there too; the system spreads connections.
        max_message_bytes: greatest request, and greatest reply that an Attach stream sends.
        max_streams: streams open at a time, of all doors.
        max_handles: sessions bound at a time on one stream.
        max_calls: calls of any kind but health running at a time; a last resort behind the typed limits.
        max_calls_per_connection: calls in flight on one connection, beside max_streams streams.
        max_connections: connections open at a time; gRPC closes further ones.
        message_timeout_s: time in which the request of a call, or the first of a stream, must arrive.
        abandoned_calls_per_s: calls that one address may start and abandon; 0 sets no limit.
        max_idle_ttl_s: the most idle time that a session may ask for.
        max_generate_tokens: most tokens of one generation.
        max_token_delay_s: most that a token waits for others, to share a message with them.
        retry_after_s: the hint that goes with a refusal.
        default_idle_ttl_s, slots: of each engine, for those who ask.
        http_port: port of the HTTP door on the same host; 0 takes a free one, None is no door.
        http_cors_origins: origins whose pages may call the HTTP door.
        console: whether the HTTP door serves the console's page.
        triton: whether to serve Triton's protocol too.
        reflection: whether to describe the services to tools such as grpcurl.
        tls: certificates; None listens in the clear.
        tenants: what each tenant may have.
        tokens: tenant by SHA-256 of its bearer token; empty lets everybody in as "default".
        tokens_file: where `tokens` are from; they are read again when it changes.
        certificates: tenant by name in its client certificate.
        server_version: told to clients.
        refused_models: models whose packages could not be loaded; their health is NOT_SERVING.
        transport: what ends HTTP/2 and gRPC: "native" or "python".
        transport_hint: what would make it native, where `auto` has not found that; else empty.
    """

    host: str = "127.0.0.1"
    port: int = 0
    shared_port: bool = False
    max_message_bytes: int = 4 << 20
    max_streams: int = 1024
    max_handles: int = 4096
    max_calls: int = 16_384
    max_calls_per_connection: int = 256
    max_connections: int = 8192
    message_timeout_s: float = 30.0
    abandoned_calls_per_s: float = 100.0
    max_idle_ttl_s: float = 7 * 86_400.0
    max_generate_tokens: int = 65_536
    max_token_delay_s: float = 0.2
    retry_after_s: float = 0.25
    default_idle_ttl_s: float = 3600.0
    slots: int = 4096
    http_port: int | None = None
    http_cors_origins: tuple[str, ...] = ()
    console: bool = True
    triton: bool = True
    reflection: bool = True
    tls: TlsFiles | None = None
    tenants: TenantLimits = NO_LIMITS
    tokens: Mapping[bytes, str] = field(default_factory=dict)
    tokens_file: Path | None = None
    certificates: Mapping[str, str] = field(default_factory=dict)
    server_version: str = "0"
    refused_models: tuple[str, ...] = ()
    transport: str = "python"
    transport_hint: str = ""

    @property
    def calls_of_a_connection(self) -> int:
        """HTTP/2 streams of one connection. Streams of sessions meet max_streams first, which has a name."""
        return self.max_streams + self.max_calls_per_connection

    @property
    def max_unsent_bytes(self) -> int:
        """Replies that one Attach stream may leave unread before it is ended."""
        return 16 * self.max_message_bytes
