"""Settings of a server, each declared once with its default, range and description.

`config_sources` reads them from the command line, the environment and a file. The reference page, the JSON
schema and `carousel config show` are made from this file.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from carousel_models import zoo_path
from carousel_server.core.limits import EngineLimits
from carousel_server.core.quotas import TenantLimits

from .advertise import check_advertise

PREFIX = "CAROUSEL_"
_LIMITS = EngineLimits()

Count = Annotated[int, Field(ge=1, le=1 << 31)]
Most = Annotated[int, Field(ge=0, le=1 << 44)]
Size = Annotated[int, Field(ge=1 << 10, le=1 << 44)]
Seconds = Annotated[float, Field(gt=0, le=366 * 86_400.0, allow_inf_nan=False)]
Port = Annotated[int, Field(ge=0, le=65_535)]
Device = Annotated[str, StringConstraints(pattern=r"^(auto|cpu|cuda|cuda:[0-9]{1,3})$")]
Tenant = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:-]{1,128}$")]
CertificateName = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F]{64}$")]


class ConfigError(ValueError):
    """Settings that cannot be used. The first line has the cause, the second the fix."""


def _setting(default: Any, description: str) -> Any:
    return Field(default=default, description=description)


class Settings(BaseSettings):
    """All settings of a server. Frozen."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", validate_default=True
    )

    # -- what is served, and where
    models: Path = Field(
        default_factory=zoo_path,
        description="Folder of model packages, or one package. The default is the shipped zoo.",
    )
    host: str = _setting("127.0.0.1", "Address that gRPC listens on.")
    port: Port = _setting(50051, "Port of gRPC. 0 uses a free one.")
    http_port: Port | Literal["off"] = _setting(
        8080, "Port of the HTTP door, on the same host. 0 uses a free one. off is no HTTP door."
    )
    http_cors_origins: tuple[str, ...] = _setting(
        (),
        "Origins, such as https://example.org, whose pages may call the HTTP door from a browser. * is all.",
    )
    console: bool = _setting(
        True, "Serve the console, a page for a browser, at / of the HTTP door."
    )
    metrics_host: str = _setting("127.0.0.1", "Address that /metrics listens on.")
    metrics_port: Port = _setting(9464, "Port of /metrics. 0 uses a free one.")
    device: Device = _setting(
        "auto",
        "Where models run: auto, cpu, cuda, or cuda:N for GPU N of those that CUDA_VISIBLE_DEVICES leaves. "
        "auto uses cuda where there is a CUDA device.",
    )
    replicas: Annotated[int, Field(ge=1, le=256)] | Literal["auto"] = _setting(
        1,
        "Processes on this machine, each a replica with its own port, metrics_port and GPU. auto is one for "
        "each GPU. They share the store, and are started again if they die.",
    )
    kernel: Literal["auto", "reference", "cpu", "cuda"] = _setting(
        "auto",
        "What computes steps: torch (reference), native code (cpu), or Triton's code and graphs (cuda). auto "
        "uses cpu on a CPU where it is available, and reference on a GPU, where cuda has not been measured.",
    )
    strict: bool = _setting(
        False, "Use one batch size for every tick, so that a row's bits never depend on its batch."
    )
    torch_threads: Annotated[int, Field(ge=0, le=1024)] = _setting(
        0,
        "Threads of one matrix product on the CPU. 0 uses all cores but one that affinity and quota allow.",
    )
    allow_custom: tuple[str, ...] = _setting(
        (), 'Custom modules ("package.module:Class") that model packages may import and run.'
    )

    bad_models: Literal["skip", "refuse"] = _setting(
        "skip",
        "What happens if a package cannot be loaded: skip serves the others and logs it, refuse ends the "
        "start. A start without any model fails in both cases.",
    )

    # -- the store
    store: str = _setting(
        "",
        "Where sessions survive a restart: sqlite:FILE, redis://HOST:PORT/DB, redis+cluster://HOST:PORT,… or "
        "redis+sentinel://HOST:PORT,…/NAME; with TLS rediss…. memory parks "
        "idle sessions, but ends with the server. Empty keeps sessions on the device only.",
    )
    replica: str = _setting(
        "",
        "This server's name at a shared store. Empty is the machine's name and the port. A server that is "
        "started again with the same name has its sessions back at once. With replicas, -N is appended.",
    )
    advertise: Annotated[str, AfterValidator(check_advertise)] = _setting(
        "",
        "Address of this server's gRPC for clients and other replicas, as host:port. Empty is host and port, "
        "with the machine's name where host is 0.0.0.0 or [::].",
    )
    moves_per_s: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)] = _setting(
        100.0,
        "Most sessions that move to one replica in a second, from all others together, when replicas come "
        "or go. 0 moves none.",
    )
    lease_ttl_s: Seconds = _setting(
        10.0, "Time after which another server may take the sessions of one that does not answer."
    )
    store_requests: Count = _setting(65_536, "Most requests waiting for the store.")

    # -- limits of each engine
    slots: Count = _setting(_LIMITS.slots, "Most sessions of one model resident on the device.")
    max_batch: Count = _setting(_LIMITS.max_batch, "Most sessions stepped together in one tick.")
    chunk_steps: Count = _setting(
        _LIMITS.chunk_steps, "Most steps that one session advances in one tick."
    )
    shared_tick_s: Annotated[float, Field(ge=0, le=60, allow_inf_nan=False)] = _setting(
        _LIMITS.shared_tick_s,
        "Time that the batch of a tick takes at most, about, while several tenants have work. Fewer steps "
        "then run in a tick. A lower value makes a tenant wait less beside a busy one, and costs "
        "throughput. 0 is no bound.",
    )
    window_steps: Count = _setting(
        _LIMITS.window_steps, "Most steps of one session sent but not acknowledged."
    )
    window_bytes: Size = _setting(
        _LIMITS.window_bytes,
        "Memory for the windows of one model. It reduces window_steps if needed.",
    )
    inbox_commands: Count = _setting(_LIMITS.inbox_commands, "Most commands waiting for one model.")
    inbox_bytes: Size = _setting(_LIMITS.inbox_bytes, "Most bytes of inputs in those commands.")
    sessions_per_tenant: Count = _setting(
        _LIMITS.sessions_per_tenant, "Most sessions of one tenant on one model."
    )
    idle_ttl_s: Seconds = _setting(
        _LIMITS.idle_ttl_s, "Idle time after which a session expires, unless it requests another."
    )
    max_idle_ttl_s: Seconds = _setting(
        _LIMITS.max_idle_ttl_s, "Longest idle time that a session may request."
    )
    park_after_s: Seconds = _setting(
        _LIMITS.park_after_s,
        "Idle time after which a session with a store is parked and frees its slot.",
    )
    durable_steps: Count = _setting(
        _LIMITS.durable_steps, "Most steps that an async session may run ahead of the store."
    )
    durable_s: Seconds = _setting(
        _LIMITS.durable_s, "Time within which its steps reach the store, while the store answers."
    )
    max_sequence_steps: Count = _setting(
        _LIMITS.max_sequence_steps, "Longest sequence of Infer and longest prompt of Generate."
    )
    max_infer_queue: Count = _setting(_LIMITS.max_infer_queue, "Most whole sequences waiting.")
    infer_batch_steps: Count = _setting(
        _LIMITS.infer_batch_steps, "Most padded steps of whole sequences that run at once."
    )
    max_generate_tokens: Count = _setting(
        _LIMITS.max_generate_tokens, "Most tokens of one generation."
    )
    max_token_delay_s: Annotated[float, Field(ge=0, le=60, allow_inf_nan=False)] = _setting(
        0.2,
        "Longest time that a generated token waits for others of its stream. With many streams, a message "
        "then has several tokens. 0 sends each token at once.",
    )
    hand_over_s: Seconds = _setting(
        _LIMITS.hand_over_s,
        "Longest time that a session waits to be handed over to another replica, and that a replica waits "
        "for one that it has asked for.",
    )
    retry_after_s: Seconds = _setting(_LIMITS.retry_after_s, "The retry hint in a refusal.")
    tick_timeout_s: Seconds = _setting(
        _LIMITS.tick_timeout_s, "A tick that takes longer makes its model unhealthy."
    )
    unhealthy_grace_s: Seconds = _setting(
        5.0, "Time without any healthy model after which the server ends with exit code 1."
    )

    # -- the wire
    max_message_bytes: Annotated[int, Field(ge=1 << 12, le=1 << 30)] = _setting(
        4 << 20, "Greatest message. By default, gRPC clients accept 4 MiB."
    )
    front_ends: Annotated[int, Field(ge=0, le=64)] = _setting(
        0, "Processes for gRPC, beside the one with the engines. 0 is one process for both."
    )
    transport: Literal["auto", "native", "python"] = _setting(
        "auto",
        "What ends HTTP/2 and gRPC: the native transport (C++), grpc.aio (python), or auto for the native "
        "one where it is shipped or can be compiled, which happens at its first start.",
    )
    max_streams: Count = _setting(
        1024,
        "Most streams of sessions open at a time, of all doors. Each front end has this limit.",
    )
    max_calls_per_connection: Count = _setting(
        256,
        "Most calls in flight on one connection, beside the streams that max_streams allows. gRPC clients "
        "hold back further ones.",
    )
    max_connections: Count = _setting(
        8192,
        "Most connections open at a time. Further ones are closed. Each front end has this limit.",
    )
    message_timeout_s: Seconds = _setting(
        30.0, "Time in which the whole message of a call, or the first of a stream, must arrive."
    )
    abandoned_calls_per_s: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)] = _setting(
        100.0,
        "Calls a second that one address may start and abandon before their message is read. Beyond that, "
        "after a burst, its connections are closed. 0 is no limit.",
    )
    max_handles: Count = _setting(4096, "Most sessions bound at a time on one stream.")
    triton: bool = _setting(True, "Serve NVIDIA Triton's gRPC protocol too, on the same port.")
    reflection: bool = _setting(True, "Describe the services to tools such as grpcurl.")
    drain_timeout_s: Seconds = _setting(
        30.0,
        "Time for accepted work to finish after SIGTERM. A second signal ends the server at once.",
    )

    # -- quotas of one tenant; with one tenant, only those that are set
    tenant_share: Annotated[float, Field(gt=0, le=1)] = _setting(
        0.75,
        "Share that one tenant may use of the slots, streams and queues that the other tenants leave free. "
        "It applies where more than one tenant is configured.",
    )
    tenant_sessions: Most = _setting(
        0, "Most sessions of one tenant resident on the device, of all models. 0 is no limit."
    )
    tenant_state_bytes: Most = _setting(
        0, "Most bytes of recurrent state of one tenant's resident sessions. 0 is no limit."
    )
    tenant_streams: Most = _setting(
        0, "Most streams of one tenant, of all doors and all front ends. 0 is no limit."
    )
    tenant_steps: Most = _setting(
        0, "Most steps of one tenant accepted and not yet run, on one model. 0 is no limit."
    )
    tenant_infer_steps: Most = _setting(
        64 * _LIMITS.max_sequence_steps,
        "Most steps of one tenant's whole sequences that wait or run. 0 is no limit. A tenant alone has no "
        "limit unless this is set.",
    )
    tenant_calls_per_s: Annotated[float, Field(ge=0, le=1e9)] = _setting(
        0.0,
        "Most calls of one tenant in a second. Blocks and bindings of its streams count too, and wait for "
        "their turn. 0 is no limit.",
    )
    tenant_stored_sessions: Most = _setting(
        1_000_000,
        "Most sessions of one tenant in the store. 0 is no limit. A tenant alone has no limit unless this is "
        "set.",
    )
    tenant_store_bytes: Most = _setting(
        64 << 30,
        "Most bytes of one tenant's snapshots in the store. 0 is no limit. A tenant alone has none unless "
        "this is set.",
    )

    # -- authentication
    tls_cert: Path | None = _setting(None, "PEM file of the server's certificate chain.")
    tls_key: Path | None = _setting(None, "PEM file of the certificate's key.")
    tls_client_ca: Path | None = _setting(
        None, "PEM file of the authority that must have signed the clients' certificates."
    )
    insecure: bool = _setting(False, "Allow an address that other machines can reach, without TLS.")
    tokens: dict[Tenant, Sha256] = Field(
        default_factory=dict,
        description="Tenant to SHA-256 (hex) of its bearer token. Empty requires no token.",
    )

    tokens_file: Path | None = _setting(
        None,
        'TOML file instead of `tokens`, with lines such as tenant = "SHA-256 of its token", or a list of '
        "them. It is read again when it changes.",
    )
    certificates: dict[CertificateName, Tenant] = Field(
        default_factory=dict,
        description="Name in a client's certificate (DNS name, URI, e-mail or common name) to its tenant. "
        "It needs tls_client_ca.",
    )

    # -- logs
    log_level: Literal["debug", "info", "warning", "error"] = _setting(
        "info",
        "Least severity that is logged. info logs one line a call, except for probes, steps and whole "
        "sequences without errors.",
    )
    log_format: Literal["text", "json"] = _setting("text", "Format of log lines.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only the given values: `config_sources.load_settings` has merged the sources."""
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)

    @model_validator(mode="after")
    def _check_together(self) -> Settings:
        """Checks that need more than one field."""
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key belong together: set both or neither")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("tls_client_ca needs tls_cert and tls_key: set them too")
        self._check_ports()
        if len({digest.lower() for digest in self.tokens.values()}) < len(self.tokens):
            raise ValueError("two tenants have the same token in tokens: change one of them")
        if self.tokens and self.tokens_file is not None:
            raise ValueError("tokens and tokens_file are both set: set one of them")
        if self.certificates and self.tls_client_ca is None:
            raise ValueError(
                "certificates needs tls_client_ca: set it, so that clients present one"
            )
        if self.idle_ttl_s > self.max_idle_ttl_s:
            raise ValueError("idle_ttl_s is above max_idle_ttl_s: raise max_idle_ttl_s")
        if self.tls_cert is None and not self.insecure and not is_loopback(self.host):
            raise ValueError(
                f"other machines can reach host {self.host!r} without TLS: set tls_cert and tls_key, or "
                "insecure=true if the network is private"
            )
        return self

    def _check_ports(self) -> None:
        taken: dict[tuple[str, int], str] = {}
        for name, host, port in (
            ("port", self.host, self.port),
            ("metrics_port", self.metrics_host, self.metrics_port),
            ("http_port", self.host, self.http_port),
        ):
            if isinstance(port, str) or not port:
                continue
            if (other := taken.setdefault((host, port), name)) != name:
                raise ValueError(f"{other} and {name} are the same: change one of them")

    def limits(self) -> EngineLimits:
        """The limits of an engine."""
        names = EngineLimits.__dataclass_fields__
        return EngineLimits(**{name: getattr(self, name) for name in names})

    @property
    def tenants(self) -> tuple[str, ...]:
        """The configured tenants, without those of `tokens_file`. Empty means that no token is required."""
        return tuple(dict.fromkeys((*self.tokens, *self.certificates.values())))

    def tenant_limits(self) -> TenantLimits:
        """The quotas of one tenant. With a single tenant, the defaults do not apply.

        With `tokens_file` tenants can be added, so it counts as several.
        """
        names = set(TenantLimits.__dataclass_fields__)
        if len(self.tenants) <= 1 and self.tokens_file is None:
            names = (names & self.model_fields_set) - {"tenant_share"}
        return TenantLimits(**{name: getattr(self, name) for name in names})


def is_loopback(host: str) -> bool:
    """True if only this machine can reach a host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
