"""``sealbus prepare --second-site``: the door at the bus, and the files of the second site."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sealbus_broker.certificates import Pair, make_bus, read
from sealbus_broker.server.process import find_binary
from tests.cli.command import Ran, quickly

SITE = "s2.example.com"
FILES = ["bus.key", "bus.pem", "ca.pem", "nats.conf", "promoted.conf", "second-site.key"]


@pytest.fixture
def bus(tmp_path: Path) -> Path:
    assert quickly("init", "mybus", cwd=tmp_path).code == 0
    return tmp_path / "mybus"


def prepare(bus: Path, *options: str) -> Ran:
    return quickly("prepare", "--store", str(bus / "store"), *options, cwd=bus)


def is_sound(config: Path) -> bool:
    """Whether nats-server takes a configuration."""
    command = [str(find_binary()), "-t", "-c", str(config)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_one_server_has_a_door_and_the_site_its_files(bus: Path) -> None:
    ran = prepare(bus, "--tls-name", "bus.example.com", "--second-site", SITE)
    assert ran.code == 0, ran.err
    folder = bus / ".sealbus/second-site"
    assert sorted(one.name for one in folder.iterdir()) == FILES
    assert f"copy .sealbus/second-site to {SITE}" in ran.err
    assert f"the door listens on 127.0.0.1, which {SITE} cannot reach" in ran.err
    assert SITE in read((folder / "bus.pem").read_bytes()).names
    for name in ("second-site.key", "bus.key"):
        assert (folder / name).stat().st_mode & 0o777 == 0o600
    first, mirrors, promoted = (
        path.read_text()
        for path in (
            bus / ".sealbus/nats.conf",
            folder / "nats.conf",
            folder / "promoted.conf",
        )
    )
    assert 'listen: "127.0.0.1:7422"' in first
    assert "remotes" in mirrors
    assert "leafnodes {" not in promoted
    secret = (folder / "second-site.key").read_text().split('"')[1]
    assert secret not in first + mirrors + promoted
    for path in (bus / ".sealbus/nats.conf", folder / "nats.conf", folder / "promoted.conf"):
        assert is_sound(path), path


def test_login_is_made_once_and_the_door_closes_again(bus: Path) -> None:
    options = ("--tls-name", "bus.example.com", "--second-site", SITE)
    assert prepare(bus, *options).code == 0
    key = (bus / ".sealbus/second-site/second-site.key").read_text()
    config = (bus / ".sealbus/nats.conf").read_text()
    assert prepare(bus, *options).code == 0
    assert (bus / ".sealbus/second-site/second-site.key").read_text() == key
    assert (bus / ".sealbus/nats.conf").read_text() == config
    assert prepare(bus).code == 0
    closed = (bus / ".sealbus/nats.conf").read_text()
    assert "leafnodes {" not in closed
    assert "SITE {" not in closed


def test_renewed_certificate_of_the_bus_comes_to_the_site(bus: Path) -> None:
    assert prepare(bus, "--tls-name", "bus.example.com", "--second-site", SITE).code == 0
    ran = quickly("certs", "init", "--renew", cwd=bus)
    assert "copy .sealbus/second-site again to the machine" in ran.err
    state = bus / ".sealbus"
    for file in ("ca.pem", "bus.pem", "bus.key"):
        assert (state / "second-site" / file).read_bytes() == (state / file).read_bytes()
    assert quickly("certs", "init", cwd=bus).err == ""


def test_old_certificate_of_the_site_is_noted(bus: Path) -> None:
    assert prepare(bus, "--tls-name", "bus.example.com", "--second-site", SITE).code == 0
    state = bus / ".sealbus"
    authority = Pair((state / "ca.pem").read_bytes(), (state / "ca.key").read_bytes())
    old = make_bus(authority, "mybus", [SITE], datetime.now(UTC) - timedelta(days=80))
    (state / "second-site/bus.pem").write_bytes(old.certificate)
    (state / "second-site/bus.key").write_bytes(old.key)
    assert ".sealbus/second-site/bus.pem: is due" in quickly("check", cwd=bus).out
    shown = [
        json.loads(one) for one in quickly("certs", "show", "--json", cwd=bus).out.splitlines()
    ]
    states = {one["file"]: one["state"] for one in shown}
    assert states[".sealbus/second-site/bus.pem"] == "due"
    assert quickly("certs", "init", cwd=bus).code == 0
    assert quickly("check", cwd=bus).out == ""


def test_each_node_of_a_cluster_has_a_door(bus: Path) -> None:
    nodes = [part for at in (1, 2, 3) for part in ("--node", f"127.0.0.1:{4222 + at}")]
    options = ("--site-port", "7000", "--second-site", SITE, "--site-dir", "/etc/nats")
    ran = prepare(bus, "--cluster", *nodes, *options)
    assert ran.code == 0, ran.err
    configs = sorted((bus / ".sealbus/nodes").glob("*/nats.conf"))
    for at, config in enumerate(configs):
        assert f'listen: "127.0.0.1:{7000 + at}"' in config.read_text()
        assert SITE in read((config.parent / "bus.pem").read_bytes()).names
        assert is_sound(config), config
    mirrors = (bus / ".sealbus/second-site/nats.conf").read_text()
    places = ", ".join(f'"tls://127.0.0.1:{7000 + at}"' for at in range(3))
    assert f"urls: [ {places} ]" in mirrors
    assert 'cert_file: "/etc/nats/bus.pem"' in mirrors


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--second-site", SITE), "--second-site is for a bus with TLS, and this bus has no"),
        (("--site-dir", "/x"), "--site-dir is for a second site"),
        (("--site-port", "7422"), "--site-port is for a second site"),
        (
            ("--second-site", "a b", "--tls-name", "x.example"),
            "--second-site a b is not an address",
        ),
    ],
)
def test_options_that_cannot_be_used_are_named(
    bus: Path, options: tuple[str, ...], said: str
) -> None:
    ran = prepare(bus, *options)
    assert ran.code != 0
    assert said in ran.err
    assert "is not an address" not in said or not (bus / ".sealbus/second-site").exists()


def test_site_finds_the_bus_at_the_address_of_the_option(bus: Path) -> None:
    address = ("--listen", "0.0.0.0:4222", "--server", "tls://bus.example.com:4222")
    ran = prepare(bus, *address, "--tls-name", "bus.example.com", "--second-site", SITE)
    assert ran.code == 0, ran.err
    mirrors = (bus / ".sealbus/second-site/nats.conf").read_text()
    assert 'urls: [ "tls://bus.example.com:7422" ]' in mirrors
    assert "cannot reach" not in ran.err


def test_file_without_a_login_is_refused(bus: Path) -> None:
    options = ("--tls-name", "bus.example.com", "--second-site", SITE)
    assert prepare(bus, *options).code == 0
    key = bus / ".sealbus/second-site/second-site.key"
    secret = key.read_text()
    key.write_text(f"{secret}more\n")
    ran = prepare(bus, *options)
    assert ran.code != 0
    assert "second-site.key has no login" in ran.err
    assert secret[7:30] not in ran.err + ran.out
