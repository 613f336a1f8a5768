"""Settings of a server: each declared once, here, with its default, range and description.

`config_sources` reads them from the command line, the environment and a file. The reference page, the JSON
schema and `carousel config show` are made from this file.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from carousel_models import zoo_path
from carousel_server.core.limits import EngineLimits
from carousel_server.core.quotas import TenantLimits

PREFIX = "CAROUSEL_"
_LIMITS = EngineLimits()

Count = Annotated[int, Field(ge=1, le=1 << 31)]
Most = Annotated[int, Field(ge=0, le=1 << 44)]
Size = Annotated[int, Field(ge=1 << 10, le=1 << 44)]
Seconds = Annotated[float, Field(gt=0, le=366 * 86_400.0, allow_inf_nan=False)]
Port = Annotated[int, Field(ge=0, le=65_535)]
Tenant = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:-]{1,128}$")]
CertificateName = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F]{64}$")]


class ConfigError(ValueError):
    """Settings that cannot be used. The first line says the cause, the second the fix."""


def _setting(default: Any, description: str) -> Any:
    return Field(default=default, description=description)


class Settings(BaseSettings):
    """Everything that an operator can choose; frozen."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", validate_default=True
    )

    # -- what is served, and where
    models: Path = Field(
        default_factory=zoo_path,
        description="Folder of model packages, or one package; by default the shipped zoo.",
    )
    host: str = _setting("127.0.0.1", "Address that gRPC listens on.")
    port: Port = _setting(50051, "Port of gRPC; 0 takes a free one.")
    metrics_host: str = _setting("127.0.0.1", "Address that /metrics listens on.")
    metrics_port: Port = _setting(9464, "Port of /metrics; 0 takes a free one.")
    device: Literal["auto", "cpu", "cuda"] = _setting(
        "auto", "Where models run; auto takes cuda where there is one."
    )
    kernel: Literal["auto", "reference", "cpu", "cuda"] = _setting(
        "auto",
        "What computes steps: torch (reference), native code (cpu), Triton's and graphs (cuda); auto takes "
        "cpu where it can be had on a CPU, and reference on a GPU, where cuda has not been measured.",
    )
    strict: bool = _setting(
        False, "One batch size for every tick, so that a row's bits never depend on its batch."
    )
    torch_threads: Annotated[int, Field(ge=0, le=1024)] = _setting(
        0,
        "Threads of one matrix product on the CPU; 0 takes all cores but one that affinity and quota allow.",
    )
    allow_custom: tuple[str, ...] = _setting(
        (), 'Custom modules ("package.module:Class") that model packages may import and run.'
    )

    bad_models: Literal["skip", "refuse"] = _setting(
        "skip",
        "What a package that cannot be loaded does: skip serves the others and says so, refuse ends the "
        "start; a start without any model fails in both cases.",
    )

    # -- the store
    store: str = _setting(
        "",
        "Where sessions outlive the server: sqlite:FILE, redis://HOST:PORT/DB, rediss://…, or memory "
        "(parks idle sessions, but ends with the server); empty keeps them on the device only.",
    )
    replica: str = _setting(
        "",
        "This server's name at a shared store; the machine's and the port if empty. Started again under it, "
        "it takes over its sessions at once.",
    )
    lease_ttl_s: Seconds = _setting(
        10.0, "Time after which another server may take the sessions of one that is silent."
    )
    store_requests: Count = _setting(65_536, "Requests waiting for the store.")

    # -- limits of each engine
    slots: Count = _setting(_LIMITS.slots, "Sessions of one model resident on the device.")
    max_batch: Count = _setting(_LIMITS.max_batch, "Sessions stepped together in one tick.")
    chunk_steps: Count = _setting(
        _LIMITS.chunk_steps, "Steps that one session advances in one tick at most."
    )
    window_steps: Count = _setting(
        _LIMITS.window_steps, "Steps of one session sent but not acknowledged."
    )
    window_bytes: Size = _setting(
        _LIMITS.window_bytes, "Memory for the windows of one model; shrinks window_steps if needed."
    )
    inbox_commands: Count = _setting(_LIMITS.inbox_commands, "Commands waiting for one model.")
    inbox_bytes: Size = _setting(_LIMITS.inbox_bytes, "Bytes of inputs in those commands.")
    sessions_per_tenant: Count = _setting(
        _LIMITS.sessions_per_tenant, "Sessions of one tenant on one model."
    )
    idle_ttl_s: Seconds = _setting(
        _LIMITS.idle_ttl_s, "Idle time after which a session expires, unless it asks for another."
    )
    max_idle_ttl_s: Seconds = _setting(
        _LIMITS.max_idle_ttl_s, "Longest idle time that a session may ask for."
    )
    park_after_s: Seconds = _setting(
        _LIMITS.park_after_s, "Idle time after which a session that the store keeps frees its slot."
    )
    durable_steps: Count = _setting(
        _LIMITS.durable_steps, "Steps that an async session may run ahead of the store."
    )
    durable_s: Seconds = _setting(
        _LIMITS.durable_s, "Time within which its steps reach the store, while that answers."
    )
    max_sequence_steps: Count = _setting(
        _LIMITS.max_sequence_steps, "Longest sequence of Infer and longest prompt of Generate."
    )
    max_infer_queue: Count = _setting(_LIMITS.max_infer_queue, "Whole sequences waiting.")
    infer_batch_steps: Count = _setting(
        _LIMITS.infer_batch_steps, "Padded steps of whole sequences that run at once."
    )
    max_generate_tokens: Count = _setting(
        _LIMITS.max_generate_tokens, "Tokens of one generation at most."
    )
    max_token_delay_s: Annotated[float, Field(ge=0, le=60, allow_inf_nan=False)] = _setting(
        0.2,
        "The longest that a generated token waits for others of its stream, so that with many streams a "
        "message has several; 0 sends each at once.",
    )
    retry_after_s: Seconds = _setting(_LIMITS.retry_after_s, "Hint that goes with a refusal.")
    tick_timeout_s: Seconds = _setting(
        _LIMITS.tick_timeout_s, "A tick that takes longer makes its model unhealthy."
    )
    unhealthy_grace_s: Seconds = _setting(
        5.0, "Time without any healthy model after which the server ends with exit code 1."
    )

    # -- the wire
    max_message_bytes: Annotated[int, Field(ge=1 << 12, le=1 << 30)] = _setting(
        4 << 20, "Greatest message; clients of grpc take 4 MiB unless told otherwise."
    )
    front_ends: Annotated[int, Field(ge=0, le=64)] = _setting(
        0, "Processes for gRPC, beside the one that has the engines; 0 is one process for both."
    )
    max_streams: Count = _setting(
        1024, "Streams of sessions open at a time, of both protocols; of each front end."
    )
    max_calls_per_connection: Count = _setting(
        256,
        "Calls in flight on one connection, beside the streams that max_streams allows; clients of gRPC "
        "keep further ones back.",
    )
    max_connections: Count = _setting(
        8192, "Connections open at a time; further ones are closed; of each front end."
    )
    message_timeout_s: Seconds = _setting(
        30.0, "Time in which the message of a call, or the first of a stream, must arrive whole."
    )
    abandoned_calls_per_s: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)] = _setting(
        100.0,
        "Calls a second that one address may start and abandon before their message is read; beyond it, "
        "after a burst, their connections are closed; 0 sets no limit.",
    )
    max_handles: Count = _setting(4096, "Sessions bound at a time on one stream.")
    triton: bool = _setting(True, "Serve NVIDIA Triton's gRPC protocol too, on the same port.")
    reflection: bool = _setting(True, "Describe the services to tools such as grpcurl.")
    drain_timeout_s: Seconds = _setting(
        30.0, "Time for accepted work to finish after SIGTERM; a second signal ends it at once."
    )

    # -- what one tenant may have; with one tenant, only what is set counts
    tenant_share: Annotated[float, Field(gt=0, le=1)] = _setting(
        0.75,
        "Part of the slots, streams and queues that the other tenants leave free, which one tenant may take. "
        "Counts where more than one tenant is configured.",
    )
    tenant_sessions: Most = _setting(
        0, "Sessions of one tenant resident on the device, of all models; 0 is no limit."
    )
    tenant_state_bytes: Most = _setting(
        0, "Bytes of recurrent state of one tenant's resident sessions; 0 is no limit."
    )
    tenant_streams: Most = _setting(
        0, "Streams of one tenant, of both protocols and all front ends; 0 is no limit."
    )
    tenant_steps: Most = _setting(
        0, "Steps of one tenant accepted and not yet run, on one model; 0 is no limit."
    )
    tenant_infer_steps: Most = _setting(
        64 * _LIMITS.max_sequence_steps,
        "Steps of one tenant's whole sequences that wait or run; 0 is no limit, and so is one tenant alone "
        "unless this is set.",
    )
    tenant_calls_per_s: Annotated[float, Field(ge=0, le=1e9)] = _setting(
        0.0,
        "Calls of one tenant in a second. Blocks and bindings of its streams count too, and wait for their "
        "turn; 0 is no limit.",
    )
    tenant_stored_sessions: Most = _setting(
        1_000_000,
        "Sessions of one tenant in the store; 0 is no limit, and so is one tenant alone unless this is set.",
    )
    tenant_store_bytes: Most = _setting(
        64 << 30,
        "Bytes of one tenant's snapshots in the store; 0 is no limit, and so is one tenant alone unless this "
        "is set.",
    )

    # -- who may come in
    tls_cert: Path | None = _setting(None, "PEM file of the server's certificate chain.")
    tls_key: Path | None = _setting(None, "PEM file of the certificate's key.")
    tls_client_ca: Path | None = _setting(
        None, "PEM file of the authority that clients' certificates must be signed by."
    )
    insecure: bool = _setting(False, "Allow an address that other machines can reach, without TLS.")
    tokens: dict[Tenant, Sha256] = Field(
        default_factory=dict,
        description="Tenant to SHA-256 (hex) of its bearer token; empty lets everybody in.",
    )

    tokens_file: Path | None = _setting(
        None,
        'TOML file in place of `tokens`, with lines such as tenant = "SHA-256 of its token", or a list of '
        "them; it is read again when it changes.",
    )
    certificates: dict[CertificateName, Tenant] = Field(
        default_factory=dict,
        description="Name in a client's certificate (DNS name, URI, e-mail or common name) to the tenant "
        "that has it; needs tls_client_ca.",
    )

    # -- logs
    log_level: Literal["debug", "info", "warning", "error"] = _setting(
        "info",
        "Least severity that is logged; info logs one line a call, save for probes, steps and whole "
        "sequences that went well.",
    )
    log_format: Literal["text", "json"] = _setting("text", "How log lines are written.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Takes the given values only: `config_sources.load_settings` has merged the sources."""
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)

    @model_validator(mode="after")
    def _check_together(self) -> Settings:
        """What one field cannot know alone."""
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key belong together: set both or none")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("tls_client_ca needs tls_cert and tls_key")
        if self.port and (self.host, self.port) == (self.metrics_host, self.metrics_port):
            raise ValueError("port and metrics_port are the same: choose another for one of them")
        if len({digest.lower() for digest in self.tokens.values()}) < len(self.tokens):
            raise ValueError("tokens: two tenants have the same token")
        if self.tokens and self.tokens_file is not None:
            raise ValueError("tokens and tokens_file say the same: set one of them")
        if self.certificates and self.tls_client_ca is None:
            raise ValueError("certificates needs tls_client_ca: only then clients present one")
        if self.idle_ttl_s > self.max_idle_ttl_s:
            raise ValueError("idle_ttl_s is above max_idle_ttl_s: raise the latter")
        if self.tls_cert is None and not self.insecure and not _is_loopback(self.host):
            raise ValueError(
                f"host {self.host} can be reached by other machines, without TLS: set tls_cert and "
                "tls_key, or insecure=true if the network is yours alone"
            )
        return self

    def limits(self) -> EngineLimits:
        """The settings that an engine needs."""
        names = EngineLimits.__dataclass_fields__
        return EngineLimits(**{name: getattr(self, name) for name in names})

    @property
    def tenants(self) -> tuple[str, ...]:
        """The tenants that are configured here, without those of `tokens_file`; none lets everybody in."""
        return tuple(dict.fromkeys((*self.tokens, *self.certificates.values())))

    def tenant_limits(self) -> TenantLimits:
        """What one tenant may have. A lone tenant shares with nobody, and no default limits it.

        Those of `tokens_file` may become more, so they count as several.
        """
        names = set(TenantLimits.__dataclass_fields__)
        if len(self.tenants) <= 1 and self.tokens_file is None:
            names = (names & self.model_fields_set) - {"tenant_share"}
        return TenantLimits(**{name: getattr(self, name) for name in names})


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
