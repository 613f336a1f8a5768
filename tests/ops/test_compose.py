"""docker-compose.yml and the Dockerfile hold together, as far as it shows without an engine."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.certificates import make_certificates, needs_openssl
from support.server import ServerProcess

from carousel_server.process.config import PREFIX, Settings
from carousel_server.process.config_sources import NOT_SETTINGS, load_settings

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SINGLE = {name: told for name, told in SERVICES.items() if name.startswith("server")}
SERVERS = {name: told for name, told in SERVICES.items() if told["image"].startswith("carousel-")}

each_service = pytest.mark.parametrize("name", SERVICES)
each_server = pytest.mark.parametrize("name", SERVERS)


def image_environment() -> dict[str, str]:
    return dict(
        re.findall(r"(CAROUSEL_\w+)=(\S+)", DOCKERFILE.split("ENV PATH")[1].split("USER")[0])
    )


def test_the_compose_schema_holds() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "check_jsonschema",
            "--builtin-schema",
            "vendor.compose-spec",
            ROOT / "docker-compose.yml",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@each_service
def test_every_mounted_file_exists(name: str) -> None:
    for mount in SERVICES[name].get("volumes", ()):
        source, target, *mode = mount.split(":")
        assert target.startswith("/")
        if source.startswith("."):
            assert (ROOT / source).exists(), source
            assert mode == ["ro"], "what is ours is not theirs to change"
        else:
            assert source in COMPOSE["volumes"]


@each_server
def test_every_variable_is_a_setting_and_the_server_takes_them_together(name: str) -> None:
    environment = image_environment() | SERVERS[name]["environment"]
    for variable in environment:
        assert variable in NOT_SETTINGS or (
            variable.removeprefix(PREFIX).lower() in Settings.model_fields
        ), variable
    settings, _ = load_settings(environment=environment)
    assert settings.host == "0.0.0.0"
    assert settings.insecure


def test_the_image_alone_refuses_to_listen_to_everybody() -> None:
    from carousel_server.process.config import ConfigError

    with pytest.raises(ConfigError, match="insecure"):
        load_settings(environment=image_environment())


@each_service
def test_services_are_pinned_confined_and_watched(name: str) -> None:
    told = SERVICES[name]
    tag = told["image"].rpartition(":")[2]
    assert tag
    assert tag != "latest"
    assert told["read_only"] is True
    assert told["cap_drop"] == ["ALL"]
    assert told["security_opt"] == ["no-new-privileges:true"]
    assert told["healthcheck"]["test"][0] == "CMD", "no shell"
    assert name in SERVERS or not told["user"].startswith("0")
    for port in told.get("ports", ()):
        assert port.startswith("127.0.0.1:"), "published on loopback only"


def test_ports_do_not_collide() -> None:
    ports = [port.split(":")[1] for told in SERVICES.values() for port in told.get("ports", ())]
    assert len(ports) == len(set(ports))


@each_server
def test_a_server_is_found_by_prometheus_and_has_time_to_drain(name: str) -> None:
    config = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    (discovery,) = config["scrape_configs"][0]["dns_sd_configs"]
    (known_as,) = SINGLE[name]["networks"]["default"]["aliases"] if name in SINGLE else [name]
    assert known_as in discovery["names"]
    assert discovery["port"] == Settings.model_fields["metrics_port"].default
    grace_s = float(SERVERS[name]["stop_grace_period"].removesuffix("s"))
    # After the drain: 10 s for an engine that hangs, 2 s for calls (server.py), and the way out.
    assert grace_s > Settings.model_fields["drain_timeout_s"].default + 12


@pytest.mark.parametrize(
    ("profiles", "expected"),
    [
        ((), {"server", "prometheus", "grafana"}),
        (("gpu",), {"server", "prometheus", "grafana", "server-gpu"}),
        (
            ("scale",),
            {"server", "prometheus", "grafana", "replica-1", "replica-2", "replica-3", "valkey", "haproxy"},
        ),
    ],
)  # fmt: skip
def test_a_profile_only_adds_services(profiles: tuple[str, ...], expected: set[str]) -> None:
    started = {
        name
        for name, told in SERVICES.items()
        if set(told.get("profiles", profiles)) <= set(profiles)
    }
    assert started == expected
    for name in started:
        assert set(SERVICES[name].get("depends_on", ())) <= started


def test_only_the_gpu_server_asks_for_a_gpu() -> None:
    assert SERVICES["server-gpu"]["profiles"] == ["gpu"]
    devices = SERVICES["server-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices[0]["capabilities"] == ["gpu"]
    assert "deploy" not in SERVICES["server"]
    assert "profiles" not in SERVICES["server"], "`docker compose up` is enough"


def test_the_dockerfile_is_as_the_guide_says() -> None:
    assert DOCKERFILE.count("\nFROM ") == 2
    user = re.search(r"^USER (\d+):", DOCKERFILE, re.MULTILINE)
    assert user
    assert int(user[1]) != 0
    assert 'ENTRYPOINT ["carousel", "serve"]' in DOCKERFILE
    assert 'CMD ["python", "-m", "carousel_server.probe"]' in DOCKERFILE
    for source in re.findall(r"^!(\S+)", (ROOT / ".dockerignore").read_text(), re.MULTILINE):
        assert (ROOT / source).exists(), source


def test_commands_are_those_of_the_programs(tmp_path: Path) -> None:
    """What the guide names and the entry point are commands that exist."""
    for command in (["health"], ["serve"]):
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                "from carousel.cli.main import main; main()",
                *command,
                "--help",
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert command[0] in done.stdout


@pytest.mark.parametrize(
    "path", sorted((ROOT / "deploy").rglob("*.yml")), ids=lambda path: path.name
)
def test_every_yaml_file_parses(path: Path) -> None:
    assert yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("script", [ROOT / "deploy" / "test_image.sh"], ids=lambda path: path.name)
def test_shell_scripts_parse(script: Path) -> None:
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_grafana_finds_what_is_mounted() -> None:
    provisioning = ROOT / "deploy" / "grafana" / "provisioning"
    provider = yaml.safe_load((provisioning / "dashboards" / "carousel.yml").read_text())
    mounts = dict(mount.split(":")[:2] for mount in SERVICES["grafana"]["volumes"])
    folder = provider["providers"][0]["options"]["path"]
    assert mounts["./deploy/grafana/dashboards"] == folder
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (ROOT / "deploy" / "grafana" / "dashboards" / Path(home).name).exists()
    source = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())
    assert source["datasources"][0]["url"] == "http://prometheus:9090"


def health_check(**environment: str) -> subprocess.CompletedProcess[str]:
    """`carousel health`, in an environment like that of the container."""
    return subprocess.run(
        [sys.executable, "-c", "from carousel.cli.main import main; main()", "health"],
        env={"PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_health_works_against_a_real_server(server: Any) -> None:
    done = health_check(CAROUSEL_SERVER=server.target)
    assert done.returncode == 0, done.stdout + done.stderr


def test_health_goes_by_no_proxy(server: Any) -> None:
    done = health_check(CAROUSEL_SERVER=server.target, http_proxy="http://127.0.0.1:9")
    assert done.returncode == 0, done.stdout + done.stderr


@needs_openssl
@pytest.mark.parametrize("asks_clients", [False, True], ids=["tls", "mtls"])
@pytest.mark.parametrize("names", ["DNS:carousel.example", "DNS:*.example,IP:10.9.8.7"])
def test_health_follows_the_servers_tls(
    models_dir: Path, tmp_path: Path, names: str, asks_clients: bool
) -> None:
    """As the container's variables say, whatever name the certificate is for, and without a token."""
    made = make_certificates(tmp_path, names)
    settings: dict[str, Any] = {"tls_cert": made / "server.pem", "tls_key": made / "server.key"}
    if asks_clients:
        settings["tls_client_ca"] = made / "ca.pem"
    hashed = hashlib.sha256(b"secret").hexdigest()
    with ServerProcess(models_dir, tokens=json.dumps({"tenant": hashed}), **settings) as server:
        port = server.target.rpartition(":")[2]
        variables = {f"CAROUSEL_{name.upper()}": str(value) for name, value in settings.items()}
        done = health_check(CAROUSEL_HOST="0.0.0.0", CAROUSEL_PORT=port, **variables)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "serving" in done.stdout
        plain = health_check(CAROUSEL_SERVER=server.target)
        assert plain.returncode == 3, "whoever names a server names its TLS"
        assert "the server uses TLS" in plain.stderr
        assert "--tls" in plain.stderr


def test_the_health_check_works_against_a_real_server(server: Any) -> None:
    command = SERVICES["server"]["healthcheck"]["test"][1:]
    assert command[0] == "python"
    for port, code in ((server.metrics_port, 0), (server.port, 1)):
        done = subprocess.run(
            [sys.executable, *command[1:]],
            env={**os.environ, "CAROUSEL_METRICS_PORT": str(port)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
    assert f"CMD {json.dumps(command)}" in DOCKERFILE, "the image's own is the same"
