"""docs/guides/kubernetes.md: its files can be applied, and its commands name what exists."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest
import yaml
from docs.pages import blocks, files

from carousel_server.process.config import Settings
from carousel_server.process.config_sources import load_settings

from .kubectl import render
from .kubernetes import COMPONENTS, FOLDER, OVERLAYS, ROOT, Manifests, Peer, allowed, overlay
from .test_compose import image_environment
from .test_kubernetes import VERSIONS, check_valid
from .test_kubernetes_flows import INTERNET, REPLICA
from .test_kubernetes_metrics import targets

PAGE = ROOT / "docs" / "guides" / "kubernetes.md"
TEXT = PAGE.read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(line, comments=True)
    for line in "".join(blocks(PAGE, "bash")).replace("\\\n", " ").splitlines()
]


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Manifests:
    """The guide's own overlay, in a folder beside a clone."""
    folder: Path = tmp_path_factory.mktemp("overlay").resolve()
    clone = os.path.relpath(ROOT, folder)
    for name, text in files(PAGE).items():
        (folder / name).write_text(text.replace("../carousel", clone))
    return Manifests(render(folder))


def test_the_overlay_of_the_guide_is_valid(ours: Manifests) -> None:
    check_valid(ours)
    (copying,) = ours.pod["spec"]["initContainers"]
    images = [ours.container["image"], copying["image"]]
    assert images == ["registry.example/ours/carousel:7", "registry.example/ours/models:3"]
    variables = ours.environment("carousel-0", "10.0.0.1", **{"carousel-store": "memory"})
    settings, _ = load_settings(environment=image_environment() | variables)
    assert settings.slots == 8192
    assert settings.bad_models == "refuse"


def test_its_policy_opens_the_way_to_a_store_elsewhere(ours: Manifests) -> None:
    policies, store = ours.of("NetworkPolicy"), Peer("10.20.0.9")
    assert allowed(policies, "egress", REPLICA, store, 6379)
    assert not allowed(policies, "egress", REPLICA, store, 443)
    assert not allowed(policies, "egress", REPLICA, INTERNET, 6379)
    assert not allowed(policies, "egress", REPLICA, Peer({"app": "shop"}), 6379)


def test_the_oldest_kubernetes_is_the_one_that_is_checked() -> None:
    assert f"needs Kubernetes {VERSIONS[0]} or newer" in TEXT.replace("\n", " ")


def test_every_folder_is_in_the_table() -> None:
    named = set(re.findall(r"^\| `([\w/]+)` \|", TEXT, re.MULTILINE))
    there = {"base", "namespace"} | {f"components/{one}" for one in COMPONENTS}
    assert named == there | {f"overlays/{one}" for one in OVERLAYS}


def test_commands_name_folders_and_files_that_exist() -> None:
    paths = [word.rpartition("=")[2] for words in COMMANDS for word in words if "deploy/" in word]
    assert len(paths) > 5
    for path in paths:
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize(
    "command", [words for words in COMMANDS if words[:1] == ["kubectl"]], ids=" ".join
)
def test_commands_name_what_the_manifests_make(command: list[str]) -> None:
    made = overlay("production")
    if "-n" in command:
        namespace = command[command.index("-n") + 1]
        assert namespace in (made.one("Namespace")["metadata"]["name"], "monitoring")
    for word in command:
        if word.startswith("statefulset/"):
            assert made.one("StatefulSet", word.partition("/")[2])
        if word.startswith("carousel-") and "secret" in command:
            assert word in str(made) or word in str(made.pod), word
    if "create" in command and "secret" in command:
        keys = [key for word in command for key in re.findall(r"--from-\w+=([\w.]+)", word)]
        assert all(key in str(made) for key in keys)


def test_the_numbers_are_those_of_the_manifests() -> None:
    made, defaults = overlay("production"), Settings.model_fields
    pod = made.pod["spec"]
    pause_s = made.container["lifecycle"]["preStop"]["exec"]["command"][1]
    share = targets(made.one("HorizontalPodAutoscaler")["spec"]["metrics"])["carousel_slots_share"]
    for words in (
        f"`preStop` waits {pause_s} s",
        f"({defaults['drain_timeout_s'].default:g} s)",
        f"`terminationGracePeriodSeconds` ({pod['terminationGracePeriodSeconds']} s)",
        f"`lease_ttl_s` ({defaults['lease_ttl_s'].default:g} s)",
        f"more than {share:.0%}".replace("%", " %"),
    ):
        assert words in TEXT.replace("\n", " "), words


def test_the_metric_that_is_asked_for_is_one_of_the_autoscalers() -> None:
    asked = [
        word.rpartition("/")[2] for words in COMMANDS for word in words if "custom.metrics" in word
    ]
    metrics = targets(overlay("production").one("HorizontalPodAutoscaler")["spec"]["metrics"])
    assert asked
    assert set(asked) <= metrics.keys()


def test_the_manifests_name_the_guide() -> None:
    assert "docs/guides/kubernetes.md" in (FOLDER / "base/kustomization.yaml").read_text()


def test_the_probes_of_the_docker_guide_are_the_same() -> None:
    (probes,) = re.findall(
        r"```yaml\n(startupProbe:.*?)```", (PAGE.parent / "docker.md").read_text(), re.DOTALL
    )
    container = overlay("production").container
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    for name, probe in yaml.safe_load(probes).items():
        asked = container[name]["httpGet"]
        assert probe == {**container[name], "httpGet": {**asked, "port": ports[asked["port"]]}}


def test_the_address_on_ipv6_is_one_that_the_server_takes() -> None:
    made = overlay("production")
    (value,) = (one["value"] for one in made.container["env"] if one["name"].endswith("ADVERTISE"))
    there = value.replace("$(POD_IP)", "[$(POD_IP)]")
    assert f"`{there}`" in TEXT
    settings, _ = load_settings(
        environment={"CAROUSEL_ADVERTISE": there.replace("$(POD_IP)", "fd00::7")}
    )
    assert settings.advertise == "[fd00::7]:50051"
