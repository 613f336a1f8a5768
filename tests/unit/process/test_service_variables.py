"""Variables of Services beside the server are no settings; what looks like one is judged by its value."""

from __future__ import annotations

import pytest

from carousel_server.process.config import ConfigError
from carousel_server.process.config_sources import load_settings, service_variables


def of_service(name: str, address: str = "10.0.0.1", port: int = 50051) -> dict[str, str]:
    """What Kubernetes sets for a Service with one named port."""
    url = f"tcp://{address}:{port}"
    return {
        f"{name}_SERVICE_HOST": address,
        f"{name}_SERVICE_PORT": str(port),
        f"{name}_SERVICE_PORT_GRPC_WEB": str(port),
        f"{name}_PORT": url,
        f"{name}_PORT_{port}_TCP": url,
        f"{name}_PORT_{port}_TCP_PROTO": "tcp",
        f"{name}_PORT_{port}_TCP_PORT": str(port),
        f"{name}_PORT_{port}_TCP_ADDR": address,
    }


@pytest.mark.parametrize(
    "name",
    ["CAROUSEL", "CAROUSEL_STORE", "CAROUSEL_METRICS", "CAROUSEL_SERVER", "CAROUSEL_A_B_C"],
)
@pytest.mark.parametrize("address", ["10.0.0.1", "[fd00::1]"])
def test_a_service_beside_the_server_changes_nothing(name: str, address: str) -> None:
    variables = of_service(name, address)
    settings, provenance = load_settings({}, None, variables)
    assert (settings.port, settings.metrics_port, settings.store) == (50051, 9464, "")
    assert {str(source) for source in provenance.values()} == {"default"}
    assert service_variables(variables, "CAROUSEL_") == sorted(variables)


def test_udp_is_a_service_too() -> None:
    variables = {"CAROUSEL_PORT": "udp://10.0.0.1:53", "CAROUSEL_PORT_53_UDP": "udp://10.0.0.1:53"}
    assert service_variables(variables, "CAROUSEL_") == sorted(variables)


def test_settings_beside_a_service_count() -> None:
    variables = of_service("CAROUSEL") | {"CAROUSEL_PORT": "6000", "CAROUSEL_SLOTS": "9"}
    settings, _ = load_settings({}, None, variables)
    assert (settings.port, settings.slots) == (6000, 9)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CAROUSEL_PORTS", "6000"),
        ("CAROUSEL_PORT", "http://x:1"),
        ("CAROUSEL_SERVICE_PORT", "50051"),
        ("CAROUSEL_SERVICE_HOST", "10.0.0.1"),
        ("CAROUSEL_METRIC_PORT", "9464"),
        ("CAROUSEL_STORE_PORT", "6379"),
        ("CAROUSEL_SERVICE_NAME", "x"),
        ("CAROUSEL_PORT_50051", "tcp://10.0.0.1:50051"),
    ],
)
def test_what_is_misspelt_is_refused_as_before(variable: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings({}, None, {variable: value})
    assert variable.removeprefix("CAROUSEL_") in str(caught.value).upper()


def test_other_prefixes_are_nobodys_business() -> None:
    assert service_variables(of_service("REDIS"), "CAROUSEL_") == []
