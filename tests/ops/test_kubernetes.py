"""The manifests of deploy/kubernetes are valid, and their parts fit together and to the server."""

from __future__ import annotations

import copy
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from cloudcoil.models.keda.v1alpha1 import ScaledObject
from cloudcoil.models.prometheus_operator.v1 import PrometheusRule, ServiceMonitor

from carousel_models import zoo_path
from carousel_server.engine import engine
from carousel_server.process import server
from carousel_server.process.config import PREFIX, Settings
from carousel_server.process.config_sources import NOT_SETTINGS, load_settings

from .kubectl import pinned_kubectl, render
from .kubernetes import COMPONENTS, FOLDER, Manifests, composed, manifests, overlay, selects
from .test_compose import DOCKERFILE, image_environment

__all__ = ["manifests"]

VERSIONS = ("1.27", "1.37")
"""The oldest release of Kubernetes that the guide allows, and the newest with schemas."""

CUSTOM = {
    "PrometheusRule": PrometheusRule,
    "ServiceMonitor": ServiceMonitor,
    "ScaledObject": ScaledObject,
}
"""Kinds that operators add, as models made from the operators' own definitions."""

MIB, GIB = 1 << 20, 1 << 30
_UNITS = {"Mi": MIB, "Gi": GIB}


def quantity_bytes(text: str) -> int:
    return int(text[:-2]) * _UNITS[text[-2:]]


def check_valid(manifests: Manifests) -> None:
    """Raises what the schemas of the manifests' kinds say."""
    for one in manifests:
        if one["kind"] in CUSTOM:
            # The models drop names that they do not know.
            parsed: Any = CUSTOM[one["kind"]].model_validate(one)
            assert parsed.model_dump(mode="json", by_alias=True, exclude_unset=True) == one
        else:
            for version in VERSIONS:
                _validate(json.dumps(one), version)


@cache
def _validate(manifest: str, version: str) -> None:
    kubernetes_validate.validate(json.loads(manifest), version, strict=True)


def test_the_schemas_hold(manifests: Manifests) -> None:
    check_valid(manifests)


@pytest.mark.parametrize("component", COMPONENTS)
def test_each_component_is_valid_alone(component: str) -> None:
    check_valid(composed(component))


def test_all_components_fit_together() -> None:
    check_valid(composed(*(one for one in COMPONENTS if one != "keda")))
    check_valid(composed(*(one for one in COMPONENTS if one != "autoscale")))


@pytest.mark.parametrize("kind", CUSTOM)
def test_a_misspelt_field_of_a_custom_kind_is_found(kind: str) -> None:
    found = composed("monitoring", "keda")
    one = copy.deepcopy(found.one(kind))
    one["spec"]["misspelt"] = 1
    with pytest.raises(AssertionError):
        check_valid(Manifests([one]))


def test_the_pinned_kubectl_renders_the_same() -> None:
    assert render(FOLDER / "overlays/production", pinned_kubectl()) == overlay("production")


def test_every_file_is_used() -> None:
    """A file that no kustomization.yaml names would be a trap."""
    for path in FOLDER.rglob("kustomization.yaml"):
        told = path.read_text()
        for file in path.parent.iterdir():
            if file.is_file() and file != path:
                assert file.name in told, file


# -- settings


def test_the_server_takes_the_variables_of_a_pod(manifests: Manifests) -> None:
    variables = manifests.environment("carousel-0", "10.1.2.3", **{"carousel-store": "memory"})
    for name in variables:
        is_setting = name.removeprefix(PREFIX).lower() in Settings.model_fields
        assert is_setting or name in NOT_SETTINGS or not name.startswith(PREFIX), name
    settings, _ = load_settings(environment=image_environment() | variables)
    assert settings.replica == "carousel-0"
    assert settings.advertise == "10.1.2.3:50051"
    assert settings.log_format == "json"
    assert settings.insecure == (manifests == overlay("try"))
    assert (settings.tls_cert is None) == (settings.tokens_file is None) == settings.insecure


def test_the_base_alone_serves_nobody_without_tls() -> None:
    from carousel_server.process.config import ConfigError

    variables = composed().environment("a", "10.0.0.1", **{"carousel-store": "memory"})
    with pytest.raises(ConfigError, match="TLS"):
        load_settings(environment=image_environment() | variables)


def test_a_changed_setting_restarts_the_replicas() -> None:
    names = {
        one.container["envFrom"][0]["configMapRef"]["name"]
        for one in (overlay("try"), overlay("production"), overlay("gpu"))
    }
    assert len(names) == 3


def test_secrets_stand_where_the_settings_say() -> None:
    found = overlay("production")
    mounts = {one["mountPath"]: one["name"] for one in found.container["volumeMounts"]}
    secrets = {
        one["name"]: one["secret"]["secretName"]
        for one in found.pod["spec"]["volumes"]
        if "secret" in one
    }
    settings = found.one("ConfigMap", "carousel-settings")["data"]
    used = {
        secrets[mounts[str(Path(value).parent)]]
        for name, value in settings.items()
        if name.endswith(("_CERT", "_KEY", "_FILE"))
    }
    assert used == {"carousel-tls", "carousel-tokens"}
    assert not any("subPath" in one for one in found.container["volumeMounts"])
    assert not found.of("Secret"), "secrets are not in files"


# -- ports, probes, time and memory


def test_ports_are_the_servers(manifests: Manifests) -> None:
    ports = {one["name"]: one["containerPort"] for one in manifests.container["ports"]}
    defaults = Settings.model_fields
    settings = {"grpc": "port", "http": "http_port", "metrics": "metrics_port"}
    assert ports == {name: defaults[setting].default for name, setting in settings.items()}
    assert re.findall(r"^EXPOSE (\d+) (\d+) (\d+)$", DOCKERFILE, re.MULTILINE) == [
        tuple(map(str, ports.values()))
    ]
    for service in ("carousel", "carousel-headless"):
        for port in manifests.one("Service", service)["spec"]["ports"]:
            assert port["targetPort"] == port["name"]
            assert port["port"] == ports[port["name"]]


def test_probes_wait_longer_than_the_servers_own_limits(manifests: Manifests) -> None:
    container = manifests.container
    paths = {
        probe: container[f"{probe}Probe"]["httpGet"]["path"]
        for probe in ("startup", "readiness", "liveness")
    }
    # A store that is away makes a server unready. It must not be killed for that.
    assert paths == {"startup": "/livez", "readiness": "/readyz", "liveness": "/livez"}
    live = container["livenessProbe"]
    assert live["failureThreshold"] * live["periodSeconds"] >= server._STUCK_S
    for probe in paths:
        assert container[f"{probe}Probe"]["httpGet"]["port"] == "metrics"


def test_the_grace_is_longer_than_the_way_out(manifests: Manifests) -> None:
    settings, _ = load_settings(
        environment=image_environment()
        | manifests.environment("a", "10.0.0.1", **{"carousel-store": "memory"})
    )
    command, seconds = manifests.container["lifecycle"]["preStop"]["exec"]["command"]
    assert command == "sleep"
    # The list of replicas, the drain, an engine that hangs, and three waits for calls.
    ends_s = engine._JOIN_S + 3 * server._STOP_GRACE_S
    way_out_s = server._EXCHANGE_S + settings.drain_timeout_s + ends_s
    grace_s = manifests.pod["spec"]["terminationGracePeriodSeconds"]
    assert grace_s >= float(seconds) + way_out_s + 5


def test_memory_is_enough_for_full_windows_and_inboxes(manifests: Manifests) -> None:
    settings, _ = load_settings(
        environment=image_environment()
        | manifests.environment("a", "10.0.0.1", **{"carousel-store": "memory"})
    )
    models = len(list(zoo_path().glob("*/manifest.json")))
    assert models
    resources = manifests.container["resources"]
    limit = quantity_bytes(resources["limits"]["memory"])
    assert limit >= models * (settings.window_bytes + settings.inbox_bytes) + GIB
    assert resources["requests"]["memory"] == resources["limits"]["memory"]


def test_production_replicas_have_whole_cores_for_themselves() -> None:
    for name in ("production", "gpu"):
        resources = overlay(name).container["resources"]
        limits = {key: one for key, one in resources["limits"].items() if "/" not in key}
        assert resources["requests"] == limits, "guaranteed"
        assert limits["cpu"].isdecimal()


def test_only_the_gpu_overlay_asks_for_a_gpu() -> None:
    asked = {
        name: overlay(name).container["resources"]["limits"].get("nvidia.com/gpu")
        for name in ("try", "production", "gpu")
    }
    assert asked == {"try": None, "production": None, "gpu": "1"}
    devices = {
        name: overlay(name).one("ConfigMap", "carousel-settings")["data"]["CAROUSEL_DEVICE"]
        for name in asked
    }
    assert devices == {"try": "cpu", "production": "cpu", "gpu": "cuda"}
    assert overlay("gpu").container["image"].endswith("-cuda")


# -- who selects whom


def test_pods_are_selected_by_what_is_made_for_them(manifests: Manifests) -> None:
    pods = {one["metadata"]["name"]: one["spec"]["template"] for one in manifests.of("StatefulSet")}
    for name, pod in pods.items():
        labels = pod["metadata"]["labels"]
        owner = manifests.one("StatefulSet", name)["spec"]
        assert selects(owner["selector"]["matchLabels"], labels)
        assert manifests.one("Service", owner["serviceName"])
        for spread in pod["spec"].get("topologySpreadConstraints", ()):
            assert selects(spread["labelSelector"]["matchLabels"], labels)
    for one in manifests.of("Service", "NetworkPolicy", "PodDisruptionBudget"):
        spec = one["spec"]
        selector = spec.get("selector", spec.get("podSelector"))
        selector = selector.get("matchLabels", selector)
        selected = [n for n, pod in pods.items() if selects(selector, pod["metadata"]["labels"])]
        valkey = one["metadata"]["name"] == "carousel-valkey"
        assert selected == ["carousel-valkey" if valkey else "carousel"], one["metadata"]["name"]


def test_dns_lists_every_ready_replica() -> None:
    spec = overlay("production").one("Service", "carousel-headless")["spec"]
    assert spec["clusterIP"] == "None"
    assert not spec.get("publishNotReadyAddresses")
    assert overlay("production").one("StatefulSet")["spec"]["serviceName"] == "carousel-headless"


def test_everything_is_in_one_namespace(manifests: Manifests) -> None:
    for one in manifests:
        if one["kind"] != "Namespace":
            assert one["metadata"]["namespace"] == manifests.one("Namespace")["metadata"]["name"]


# -- confinement


def test_pods_keep_to_the_restricted_level(manifests: Manifests) -> None:
    assert (
        manifests.one("Namespace")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
        == "restricted"
    )
    for owner in [*manifests, *composed("models")]:
        if owner["kind"] != "StatefulSet":
            continue
        pod = owner["spec"]["template"]["spec"]
        assert pod["enableServiceLinks"] is False
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in [*pod.get("initContainers", ()), *pod["containers"]]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert container["image"].rpartition(":")[2] not in ("", "latest")


def test_the_user_is_that_of_the_image(manifests: Manifests) -> None:
    (user,) = re.findall(r"^USER (\d+):(\d+)", DOCKERFILE, re.MULTILINE)
    context = manifests.pod["spec"]["securityContext"]
    assert (str(context["runAsUser"]), str(context["runAsGroup"])) == user


def test_models_are_where_the_settings_say() -> None:
    found = composed("models")
    folder = found.one("ConfigMap", "carousel-settings")["data"]["CAROUSEL_MODELS"]
    (copying,) = found.pod["spec"]["initContainers"]
    assert copying["command"] == ["cp", "-r", "/models/.", f"{folder}/"]
    mount = {"name": "models", "mountPath": folder}
    assert mount in copying["volumeMounts"]
    assert {**mount, "readOnly": True} in found.container["volumeMounts"]


def test_every_file_is_yaml_with_a_first_line_for_readers() -> None:
    for path in FOLDER.rglob("*.yaml"):
        assert list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
        assert "# " in path.read_text(encoding="utf-8"), path
