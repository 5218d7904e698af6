"""``docs/deploy``: manifests and units are read. Their commands and fields are those of Sealbus."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import click
import pytest
from ruamel.yaml import YAML

from sealbus.credentials import Credentials
from sealbus_broker.cli.main import cli
from sealbus_broker.policy.certificate_names import check_certificate_name
from sealbus_broker.server.process import find_binary
from tests.cli.command import sealbus
from tests.docs.places import DOCS
from tests.packaging.containers import read_compose
from tests.packaging.release import ROOT
from tests.ports import free_port
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.slow

KUBERNETES: Final = (DOCS / "deploy/kubernetes.md").read_text()
SYSTEMD: Final = (DOCS / "deploy/systemd.md").read_text()
CLUSTER: Final = (DOCS / "deploy/cluster.md").read_text()
SEALBUS: Final = (sys.executable, "-m", "sealbus_broker")
IMAGES: Final = {
    service["image"] for service in read_compose(ROOT / "compose.yaml")["services"].values()
}
RESOURCES: Final = {
    "Certificate": "cert-manager.io/v1",
    "Issuer": "cert-manager.io/v1",
    "Service": "v1",
    "StatefulSet": "apps/v1",
    "Deployment": "apps/v1",
}


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def manifests() -> Iterator[dict[str, Any]]:
    for block in blocks(KUBERNETES, "yaml"):
        yield from YAML(typ="safe", pure=True).load_all(block)


def named(kind: str) -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"]: one for one in manifests() if one["kind"] == kind}


def check_command(words: list[str]) -> None:
    """Fail unless our command line knows the command and its options."""
    command: click.Command = cli
    context = click.Context(cli)
    while isinstance(command, click.Group):
        found = command.get_command(context, words.pop(0))
        assert found is not None
        command = found
    known = {name for one in command.params for name in one.opts}
    given = {word.partition("=")[0] for word in words if word.startswith("--")}
    assert given <= known, given - known


def shell_commands(page: str) -> list[list[str]]:
    """Each command of the ``sh`` blocks, as words."""
    lines = "\n".join(blocks(page, "sh")).replace("\\\n", " ")
    parts = [part for line in lines.splitlines() for part in line.split(" && ")]
    return [shlex.split(part) for part in parts if part.strip()]


# ---- Kubernetes ----------------------------------------------------------------------------------


def pods() -> dict[str, dict[str, Any]]:
    found = {**named("StatefulSet"), **named("Deployment")}
    return {name: one["spec"]["template"]["spec"] for name, one in found.items()}


def test_each_resource_has_its_version_and_namespace() -> None:
    found = list(manifests())
    assert len(found) == 9
    for one in found:
        assert one["apiVersion"] == RESOURCES[one["kind"]]
        assert one["metadata"]["namespace"] == "sealbus"


def test_selectors_are_the_labels_of_their_pods() -> None:
    for one in [*named("StatefulSet").values(), *named("Deployment").values()]:
        labels = one["spec"]["template"]["metadata"]["labels"]
        assert one["spec"]["selector"]["matchLabels"] == labels
    labels = named("StatefulSet")["nats"]["spec"]["template"]["metadata"]["labels"]
    assert named("Service")["nats"]["spec"]["selector"] == labels


@pytest.mark.parametrize("name", ["nats", "relay", "order"])
def test_each_mount_has_its_volume(name: str) -> None:
    claims = named("StatefulSet").get(name, {"spec": {}})["spec"].get("volumeClaimTemplates", [])
    there = {one["name"] for one in pods()[name]["volumes"]}
    there |= {one["metadata"]["name"] for one in claims}
    mounted = [mount["name"] for one in pods()[name]["containers"] for mount in one["volumeMounts"]]
    assert set(mounted) == there


def test_secrets_of_certificates_are_those_that_pods_mount() -> None:
    made = {one["spec"]["secretName"] for one in named("Certificate").values()}
    mounted = {
        volume["secret"]["secretName"]
        for pod in pods().values()
        for volume in pod["volumes"]
        if "secret" in volume
    }
    assert mounted - made == {"order"}  # the credentials, which are no certificate
    issuers = set(named("Issuer"))
    assert {one["spec"]["issuerRef"]["name"] for one in named("Certificate").values()} <= issuers


def test_certificates_are_those_that_the_server_and_policy_want() -> None:
    bus, order = (named("Certificate")[name]["spec"] for name in ("bus", "order"))
    assert {"server auth", "client auth"} <= set(bus["usages"])
    assert "client auth" in order["usages"]
    (uri,) = order["uris"]
    assert check_certificate_name(uri) == uri
    assert f"certificate: {uri}" in KUBERNETES
    host = re.search(r"--server tls://([^:]+):4222", KUBERNETES)
    assert host is not None
    assert host[1] in bus["dnsNames"]
    service = named("Service")["nats"]["metadata"]
    assert host[1] == f"{service['name']}.{service['namespace']}.svc"


def test_images_are_those_of_compose() -> None:
    used = {one["image"] for pod in pods().values() for one in pod["containers"]}
    assert used - IMAGES == {"order:1.0.0"}  # the reader's own


@pytest.mark.parametrize("name", ["nats", "relay", "order"])
def test_pods_have_no_more_rights_than_they_need(name: str) -> None:
    context = pods()[name]["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] == context["fsGroup"] == 10001
    for one in pods()[name]["containers"]:
        if one["image"] in IMAGES:
            assert one["securityContext"] == {
                "readOnlyRootFilesystem": True,
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }


def test_commands_of_pods_are_ours() -> None:
    (relay,) = pods()["relay"]["containers"]
    check_command(list(relay["args"]))
    program, *words = relay["readinessProbe"]["exec"]["command"]
    assert program == "sealbus"
    check_command(words)


@pytest.mark.parametrize(
    "page", [KUBERNETES, SYSTEMD, CLUSTER], ids=["kubernetes", "systemd", "cluster"]
)
def test_commands_for_the_shell_are_ours(page: str) -> None:
    found = [words for words in shell_commands(page) if words[0] == "sealbus"]
    assert found
    for words in found:
        check_command(words[1:])


def test_folder_works_as_a_pod_sees_it(tmp_path: Path) -> None:
    """A projected volume has each file behind two symbolic links."""
    made = sealbus("init", "shop", "--server", "tls://nats.sealbus.svc:4222", cwd=tmp_path)
    assert made.code == 0, made.err
    bus = tmp_path / "shop"
    tls, credentials = blocks(KUBERNETES, "toml")
    (bus / "bus.toml").write_text((bus / "bus.toml").read_text() + "\n" + tls)
    bot = re.search(r"^    bots:\n((?:      .*\n)+)", KUBERNETES, re.MULTILINE)
    assert bot is not None
    policy = bus / "policy.yaml"
    entry = bot[1].replace("\n    ", "\n").removeprefix("    ")
    policy.write_text(policy.read_text().replace("bots:\n", f"bots:\n{entry}", 1))
    for words in shell_commands(KUBERNETES):
        if words[:2] in (["sealbus", "keys"], ["sealbus", "prepare"]):
            ran = sealbus(*words[1:], cwd=bus)
            assert ran.code == 0, ran.err
    config = (bus / "nats.conf").read_text()
    for name, file in (("cert_file", "tls.crt"), ("key_file", "tls.key"), ("ca_file", "ca.crt")):
        assert f'{name}: "/tls/{file}"' in config
    order = bus / "credentials/order.toml"
    order.write_text(order.read_text() + credentials)
    assert Credentials.load(order).tls is not None
    pod = tmp_path / "pod"
    lay_out(bus, pod)
    ran = sealbus("check", cwd=pod)
    assert ran.code == 0, ran.err
    assert "order" in sealbus("keys", "ls", cwd=pod).out


def lay_out(bus: Path, pod: Path) -> None:
    """The volume ``bus`` of the relay's pod, as the kubelet makes it."""
    (projected,) = [one for one in pods()["relay"]["volumes"] if "projected" in one]
    real = pod / "..2026_11_27"
    (pod / "..data").parent.mkdir(parents=True)
    for source in projected["projected"]["sources"]:
        kind, what = next(iter(source.items()))
        folder = {"bus": "", "bus-schemas": "schemas", "bus-keys": "keys", "relay": ".sealbus"}
        origin = bus / folder[what["name"]]
        whole = [{"key": name, "path": name} for name in ("policy.yaml", "bus.toml")]
        for item in what.get("items", whole):
            target = real / item["path"]
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(origin / item["key"], target)
        assert kind in ("configMap", "secret")
    (pod / "..data").symlink_to(real.name)
    for entry in real.iterdir():
        (pod / entry.name).symlink_to(Path("..data") / entry.name)


# ---- systemd -------------------------------------------------------------------------------------


def units() -> list[configparser.ConfigParser]:
    found = []
    for block in blocks(SYSTEMD, "ini"):
        # systemd takes a name several times, and a backslash at the end of a line.
        unit = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
        unit.optionxform = str  # type: ignore[assignment,method-assign]  # names keep their case
        unit.read_string(block.replace("\\\n", " "))
        found.append(unit)
    return found


def test_units_are_read_and_start_our_commands() -> None:
    assert len(units()) == 5
    started = re.findall(
        r"^ExecStart=/opt/sealbus/bin/sealbus (.*)$",
        "\n".join(blocks(SYSTEMD, "ini")).replace("\\\n", " "),
        re.MULTILINE,
    )
    assert [one.split()[0] for one in started] == ["relay", "certs", "prepare", "certs"]
    for one in started:
        check_command(one.split())


def test_credentials_of_units_are_those_that_the_page_writes() -> None:
    loaded = [
        unit["Service"]["LoadCredential"].split(":")
        for unit in units()
        if unit.has_option("Service", "LoadCredential")
    ]
    assert loaded == [
        ["relay.toml", "/etc/sealbus/relay.toml"],
        ["order.toml", "/etc/sealbus/order.toml"],
    ]
    assert "/run/credentials/sealbus-relay.service/relay.toml" in SYSTEMD
    (fields,) = (tomllib.loads(block) for block in blocks(SYSTEMD, "toml"))
    assert set(fields) == {"ca", "cert", "cert_key"}


def test_the_commands_make_a_bus_that_runs(tmp_path: Path) -> None:
    """Without its users and its services: everything belongs to the user of the test."""
    port = free_port()

    def here(text: str) -> str:
        for there in ("/srv", "/etc", "/run/credentials", "/var/lib/nats"):
            text = re.sub(rf"(?<![\w/.]){there}(?=/|$)", str(tmp_path / there.strip("/")), text)
        return text.replace("bus.example.com:4222", f"127.0.0.1:{port}").replace(
            "0.0.0.0:4222", f"127.0.0.1:{port}"
        )

    cwd = tmp_path
    for given in shell_commands(SYSTEMD):
        words = [here(word) for word in given]
        if words[0] == "cd":
            cwd = Path(words[1])
        elif words[0] == "sealbus":
            ran = sealbus(*words[1:], cwd=cwd)
            assert ran.code == 0, ran.err
        elif words[0] not in ("chown", "systemctl"):
            if "-o" in words:
                del words[words.index("-o") : words.index("-o") + 2]
            subprocess.run(words, check=True, cwd=cwd)
    credentials = tmp_path / "run/credentials/sealbus-relay.service"
    credentials.mkdir(parents=True)
    shutil.copy(tmp_path / "etc/sealbus/relay.toml", credentials)
    assert (tmp_path / "etc/nats/tls/bus.key").stat().st_mode & 0o777 == 0o600
    with ExitStack() as processes:
        config = str(tmp_path / "etc/nats/nats.conf")
        start(processes, [str(find_binary()), "-c", config], tmp_path / "nats.log")
        relay = [*SEALBUS, "relay", "--dir", str(tmp_path / "srv/mybus")]
        start(processes, relay, tmp_path / "relay.log")
        end = time.monotonic() + PATIENCE_S
        while (ran := sealbus("ping", cwd=tmp_path / "srv/mybus")).code != 0:
            assert time.monotonic() < end, ran.err


# ---- a cluster -----------------------------------------------------------------------------------


def test_the_commands_make_a_cluster_that_runs(tmp_path: Path) -> None:
    """The commands of its first section, with three ports of this machine for three machines."""
    ports = [free_port() for _ in range(3)]
    bus = tmp_path / "mybus"

    def here(text: str) -> str:
        for number, port in enumerate(ports, start=1):
            text = re.sub(rf"n{number}\.example\.com(:4222)?", f"127.0.0.1:{port}", text)
        return text

    section = CLUSTER.partition("## Three nodes")[2].partition("\n## ")[0]
    for given in shell_commands(section):
        words = [here(word) for word in given]
        if words[0] == "cd":
            continue
        if "--cluster" in words:
            words += ["--routes-port", str(free_port())]
        ran = sealbus(*words[1:], cwd=bus if bus.exists() else tmp_path)
        assert ran.code == 0, ran.err
    (limits,) = blocks(section, "yaml")
    policy = bus / "policy.yaml"
    assert policy.read_text().count("limits:\n") == 1
    policy.write_text(policy.read_text().replace("limits:\n", limits))
    with ExitStack() as processes:
        for node in sorted((bus / ".sealbus/nodes").iterdir()):
            config = (node / "nats.conf").read_text()
            # Nodes on one host each have a part of these folders.
            config = config.replace(f"/etc/nats/{node.name}/", f"{node}/")
            config = config.replace(f"/var/lib/nats/{node.name}", f"{node}/store")
            (node / "nats.conf").write_text(config)
            command = [str(find_binary()), "-c", str(node / "nats.conf")]
            start(processes, command, node / "nats.log")
        start(processes, [*SEALBUS, "relay", "--dir", str(bus)], tmp_path / "relay.log")
        end = time.monotonic() + PATIENCE_S
        while (ran := sealbus("ping", "--json", cwd=bus)).code != 0:
            assert time.monotonic() < end, ran.err
        assert '"problems": []' in ran.out or '"problems":[]' in ran.out


def start(processes: ExitStack, command: list[str], log: Path) -> None:
    """A process that ends with the test."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=dict(os.environ))
    processes.callback(process.wait, PATIENCE_S)
    processes.callback(process.send_signal, signal.SIGTERM)
