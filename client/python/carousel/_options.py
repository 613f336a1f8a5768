"""A client's options: channel options, credentials, deadlines."""

from __future__ import annotations

from dataclasses import dataclass, field

from ._core.retry import RetryPolicy
from ._errors import FieldInvalidError
from ._targets import Target, target_of
from ._tls import TLS, is_local
from ._version import __version__

MAX_MESSAGE_BYTES = 64 << 20

CHANNEL_OPTIONS: list[tuple[str, int | str]] = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # Without keepalive, a half-open peer is never noticed. ping_timeout makes it quick.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 0),
    # After a break, our own schedule decides when to reconnect, and gRPC's must not delay it.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
    # A server may return at another address. By default gRPC looks it up after 30 s at the earliest.
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
    # gRPC's own retries do not use our reasons and hints.
    ("grpc.enable_retries", 0),
    ("grpc.primary_user_agent", f"carousel-python/{__version__}"),
]


OF_SEVERAL: list[tuple[str, int | str]] = [
    # A server that is silent is left for another one, so it should be noticed soon.
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
]
"""Channel options where the client knows several servers. The first one is the time of one try to connect."""


@dataclass(frozen=True, slots=True)
class Options:
    """All options of a client."""

    target: Target
    token: str | None = field(repr=False)
    tls: TLS | None
    timeout_s: float
    retries: RetryPolicy
    replay_tolerance: float | None = None
    journal_fsync: bool = False

    def __post_init__(self) -> None:
        if not self.timeout_s > 0:
            raise ValueError(f"timeout_s is {self.timeout_s}; it must be above 0")
        if self.replay_tolerance is not None and not self.replay_tolerance >= 0:
            raise ValueError(
                f"replay_tolerance is {self.replay_tolerance}; it must not be negative"
            )

    def channel_options(self, address: str) -> list[tuple[str, int | str]]:
        """The options of a channel. A proxy of the environment is not used for this machine itself.

        The servers behind a name have its certificate, and not one for their address.
        """
        options = dict(CHANNEL_OPTIONS)
        if self.target.several:
            options.update(OF_SEVERAL)
        if is_local(address):
            options["grpc.enable_http_proxy"] = 0
        name = self.server_name
        if self.tls is not None and name:
            options["grpc.ssl_target_name_override"] = name
        return list(options.items())

    @property
    def server_name(self) -> str | None:
        """The name to expect in a server's certificate, if it is not that of its address."""
        return (self.tls and self.tls.server_name) or self.target.host or None

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The metadata of each call."""
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()


def options_of(
    target: str,
    token: str | None,
    tls: TLS | bool | None,
    timeout_s: float,
    retries: RetryPolicy | int,
    *,
    replay_tolerance: float | None = None,
    journal_fsync: bool = False,
) -> Options:
    """Checks and completes a client's arguments, and reads the files of `tls`.

    Raises:
        FieldInvalidError: the target is not well formed, the token cannot be in a header, or TLS parts
            cannot be used.
        ValueError: another argument is out of its range.
        OSError: a file cannot be read.
    """
    if isinstance(tls, bool):
        tls = TLS() if tls else None
    if isinstance(retries, int):
        retries = RetryPolicy(attempts=retries + 1)
    tls = tls.read() if tls is not None else None
    return Options(
        target_of(target), _token(token), tls, timeout_s, retries, replay_tolerance, journal_fsync
    )


def _token(token: str | None) -> str | None:
    """The token without surrounding space, which a file or a shell may have added."""
    token = (token or "").strip()
    if not (token.isascii() and token.isprintable()):
        raise FieldInvalidError(
            "the token has characters that cannot be in a header: it must be printable ASCII"
        )
    return token or None
