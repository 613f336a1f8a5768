"""The rendered manifests of deploy/kubernetes, and what Kubernetes makes of them."""

from __future__ import annotations

import base64
import ipaddress
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

import pytest

from .kubectl import Manifest, render

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
OVERLAYS = ("try", "production", "gpu")
COMPONENTS = sorted(path.name for path in (FOLDER / "components").iterdir())

Labels = Mapping[str, str]


class Manifests(list[Manifest]):
    """All manifests of one rendered folder."""

    def one(self, kind: str, name: str = "carousel") -> Manifest:
        """The manifest of this kind and name. A generated name has a hash behind it."""
        (found,) = (
            one
            for one in self
            if one["kind"] == kind
            and re.fullmatch(rf"{name}(-[a-z0-9]{{10}})?", one["metadata"]["name"])
        )
        return found

    def of(self, *kinds: str) -> list[Manifest]:
        """All manifests of some kinds."""
        return [one for one in self if one["kind"] in kinds]

    @property
    def pod(self) -> Manifest:
        """The template of a replica's pod."""
        template: Manifest = self.one("StatefulSet")["spec"]["template"]
        return template

    @property
    def container(self) -> Manifest:
        """The server's container."""
        (container,) = (one for one in self.pod["spec"]["containers"] if one["name"] == "server")
        return dict(container)

    def environment(self, pod: str, address: str, **secrets: str) -> dict[str, str]:
        """The variables of the server in a pod, without those of the image.

        Args:
            pod: its name.
            address: its IP address.
            secrets: values of Secrets that these manifests do not make, by the Secret's name.
        """
        found: dict[str, str] = {}
        for source in self.container["envFrom"]:
            found |= self.one("ConfigMap", source["configMapRef"]["name"])["data"]
        fields = {"metadata.name": pod, "status.podIP": address}
        for variable in self.container["env"]:
            value = variable.get("value")
            if value is None:
                source = variable["valueFrom"]
                if "fieldRef" in source:
                    value = fields[source["fieldRef"]["fieldPath"]]
                else:
                    value = self._secret(secrets, **source["secretKeyRef"])
            else:
                value = re.sub(r"\$\((\w+)\)", lambda named: found[named[1]], value)
            found[variable["name"]] = value
        return found

    def _secret(self, given: Mapping[str, str], name: str, key: str) -> str:
        if name in given:
            return given[name]
        return base64.b64decode(self.one("Secret", name)["data"][key]).decode()


@cache
def overlay(name: str) -> Manifests:
    """The manifests of a folder of overlays/."""
    return Manifests(render(FOLDER / "overlays" / name))


@pytest.fixture(params=OVERLAYS)
def manifests(request: pytest.FixtureRequest) -> Manifests:
    """Each overlay in turn."""
    return overlay(request.param)


@cache
def composed(*components: str) -> Manifests:
    """The base in a namespace with some components, rendered from a folder of its own."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made).resolve()
        to = Path(os.path.relpath(FOLDER, folder))
        lines = ["apiVersion: kustomize.config.k8s.io/v1beta1", "kind: Kustomization"]
        lines += ["namespace: carousel", f"resources: [{to}/namespace, {to}/base]", "components:"]
        lines += [f"  - {to}/components/{name}" for name in components]
        (folder / "kustomization.yaml").write_text("\n".join(lines) + "\n")
        return Manifests(render(folder))


def selects(selector: Labels, labels: Labels) -> bool:
    """Whether a selector of labels selects something with these labels."""
    return all(labels.get(key) == value for key, value in selector.items())


class Peer:
    """A pod somewhere in the cluster, or an address outside of it."""

    def __init__(
        self, labels: Labels | str, namespace: str = "carousel", **namespace_labels: str
    ) -> None:
        """`labels`: those of the pod, or an IP address outside of the cluster."""
        self.labels = {} if isinstance(labels, str) else labels
        self.address = ipaddress.ip_address(labels) if isinstance(labels, str) else None
        self.namespace = namespace
        self.namespace_labels = {
            "kubernetes.io/metadata.name": namespace,
            **{key.replace("_", "-"): value for key, value in namespace_labels.items()},
        }


def allowed(
    policies: Iterable[Manifest], direction: str, pod: Peer, other: Peer, port: int | str
) -> bool:
    """Whether the policies let a connection pass that begins ("egress") or ends ("ingress") at a pod.

    Args:
        policies: the network policies of the pod's namespace.
        direction: "ingress" or "egress".
        pod: the pod, in the policies' namespace.
        other: the other end.
        port: the port where the connection ends, as the policy may name it.
    """
    applying = [
        one["spec"]
        for one in policies
        if selects(one["spec"]["podSelector"]["matchLabels"], pod.labels)
        and direction.capitalize() in one["spec"]["policyTypes"]
    ]
    side = "from" if direction == "ingress" else "to"
    rules = [rule for spec in applying for rule in spec.get(direction, ())]
    return not applying or any(
        any(one["port"] == port for one in rule["ports"])
        and any(_is_peer(one, pod, other) for one in rule[side])
        for rule in rules
    )


def _is_peer(described: Manifest, pod: Peer, other: Peer) -> bool:
    block = described.get("ipBlock")
    if other.address is not None or block is not None:
        if other.address is None or block is None:
            return False  # blocks are for addresses outside of the cluster
        return other.address in ipaddress.ip_network(block["cidr"])
    namespaces = described.get("namespaceSelector")
    if namespaces is None:
        if other.namespace != pod.namespace:
            return False
    elif not selects(namespaces["matchLabels"], other.namespace_labels):
        return False
    pods = described.get("podSelector")
    return pods is None or selects(pods["matchLabels"], other.labels)
