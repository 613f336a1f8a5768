"""Settings of a server: each declared once, here, with its default, range and description.

Command line > environment (`CAROUSEL_…`) > TOML file > default. A key that is none of them is an error, with
the nearest real one. The reference page, the JSON schema and `carousel config show` are made from this file.
"""

from __future__ import annotations

import difflib
import ipaddress
import json
import os
import tomllib
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from carousel_models import zoo_path
from carousel_server.core.limits import EngineLimits

PREFIX = "CAROUSEL_"
CONFIG_VARIABLE = "CAROUSEL_CONFIG"
"""Names the settings file where the command line does not."""

NOT_SETTINGS = frozenset(
    {CONFIG_VARIABLE, "CAROUSEL_SERVER", "CAROUSEL_TOKEN", "CAROUSEL_FAILPOINT"}
)
"""Variables with our prefix that belong to the client's command line, and to tests (failpoints)."""

_LIMITS = EngineLimits()

Count = Annotated[int, Field(ge=1, le=1 << 31)]
Size = Annotated[int, Field(ge=1 << 10, le=1 << 44)]
Seconds = Annotated[float, Field(gt=0, le=366 * 86_400.0, allow_inf_nan=False)]
Port = Annotated[int, Field(ge=0, le=65_535)]
Tenant = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:-]{1,128}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F]{64}$")]


class Source(StrEnum):
    """Where a setting's value comes from."""

    DEFAULT = "default"
    FILE = "file"
    ENVIRONMENT = "environment"
    COMMAND_LINE = "command line"


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
        0, "Threads of one matrix product on the CPU; 0 leaves one core to gRPC."
    )
    allow_custom: tuple[str, ...] = _setting(
        (), 'Custom modules ("package.module:Class") that model packages may import and run.'
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
    max_handles: Count = _setting(4096, "Sessions bound at a time on one stream.")
    triton: bool = _setting(True, "Serve NVIDIA Triton's gRPC protocol too, on the same port.")
    reflection: bool = _setting(True, "Describe the services to tools such as grpcurl.")
    drain_timeout_s: Seconds = _setting(
        30.0, "Time for accepted work to finish after SIGTERM; a second signal ends it at once."
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
        """Only what is given: `load_settings` merges the sources, so that it knows each one's part."""
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


def load_settings(
    cli: Mapping[str, object] | None = None,
    config_file: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> tuple[Settings, dict[str, Source]]:
    """Merges all sources.

    Args:
        cli: settings given on the command line, by name.
        config_file: TOML file; CAROUSEL_CONFIG names one if this is None.
        environment: variables; the process's own if None.

    Returns:
        The settings, and for each of them where its value comes from.

    Raises:
        ConfigError: an unknown key, a value out of range, or a file that cannot be read.
    """
    variables = os.environ if environment is None else environment
    if config_file is None and CONFIG_VARIABLE in variables:
        config_file = Path(variables[CONFIG_VARIABLE])
    sources: dict[Source, Mapping[str, object]] = {
        Source.FILE: {} if config_file is None else _read_file(config_file),
        Source.ENVIRONMENT: _read_environment(variables),
        Source.COMMAND_LINE: cli or {},
    }
    values: dict[str, Any] = {}
    provenance = dict.fromkeys(Settings.model_fields, Source.DEFAULT)
    for source, given in sources.items():
        _check_keys(source, given)
        for key, value in given.items():
            values[key] = _structured(key, value)
            provenance[key] = source
    try:
        return Settings(**values), provenance
    except ValidationError as error:
        raise ConfigError(_explain(error, provenance)) from error


def _read_file(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}\nname a TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no TOML: {error}\ncorrect it there") from error


def _read_environment(variables: Mapping[str, str]) -> dict[str, object]:
    return {
        name.removeprefix(PREFIX).lower(): value
        for name, value in variables.items()
        if name.startswith(PREFIX) and name not in NOT_SETTINGS
    }


def _check_keys(source: Source, keys: Iterable[str]) -> None:
    """An unknown key is a typing error or an old name: ignoring it would be a silent surprise."""
    for key in keys:
        if key in Settings.model_fields:
            continue
        shown = PREFIX + key.upper() if source is Source.ENVIRONMENT else key
        near = difflib.get_close_matches(key, Settings.model_fields, n=1)
        fix = f"did you mean {near[0]}?" if near else "see: carousel config show"
        raise ConfigError(f"unknown setting {shown} ({source})\n{fix}")


def _structured(key: str, value: object) -> object:
    """A list or table that was given as text (environment, --set) is JSON, or items with commas."""
    if key not in ("tokens", "allow_custom") or not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        if key == "allow_custom":
            return tuple(part.strip() for part in value.split(",") if part.strip())
        raise ConfigError(
            f'{key} is no JSON object\nwrite it as {key}={{"tenant": "sha256 in hex"}}'
        ) from None


def _explain(error: ValidationError, provenance: Mapping[str, Source]) -> str:
    """The first fault, as cause and fix. Values are not repeated: some are secrets."""
    fault = error.errors(include_url=False, include_input=False)[0]
    if not fault["loc"]:
        cause, _, fix = fault["msg"].removeprefix("Value error, ").partition(": ")
        return f"{cause}\n{fix or 'correct one of them'}"
    key = str(fault["loc"][0])
    message = fault["msg"][:1].lower() + fault["msg"][1:]
    source = provenance.get(key, Source.DEFAULT)
    return f"setting {key} ({source}): {message}\n{Settings.model_fields[key].description}"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
