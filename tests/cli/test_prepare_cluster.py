"""``sealbus prepare --cluster``: the files of all nodes, and their certificates."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sealbus_broker.certificates import Pair, is_issued_by, make_node, read
from tests.cli.command import Ran, quickly
from tests.cli.folders import facts

HOSTS = ("n1.example.com", "n2.example.com", "10.0.0.3:4223")
NAMES = ("10.0.0.3-4223", "n1.example.com-4222", "n2.example.com-4222")
FILES = ("bus.key", "bus.pem", "ca.pem", "nats.conf", "node.key", "node.pem", "nodes-ca.pem")


@pytest.fixture
def bus(tmp_path: Path) -> Path:
    assert quickly("init", "mybus", cwd=tmp_path).code == 0
    return tmp_path / "mybus"


def prepare(bus: Path, *options: str, hosts: tuple[str, ...] = HOSTS) -> Ran:
    nodes = [part for host in hosts for part in ("--node", host)]
    return quickly("prepare", "--cluster", *nodes, *options, cwd=bus)


def contents(bus: Path) -> dict[str, bytes]:
    nodes = bus / ".sealbus/nodes"
    return {str(one.relative_to(nodes)): one.read_bytes() for one in nodes.glob("*/*")}


def test_each_node_has_a_whole_folder(bus: Path) -> None:
    ran = prepare(bus)
    assert ran.code == 0, ran.err
    assert sorted(contents(bus)) == sorted(f"{name}/{file}" for name in NAMES for file in FILES)
    for name in NAMES:
        assert f"node {name}: copy .sealbus/nodes/{name} to" in ran.err
        for key in ("bus.key", "node.key"):
            assert (bus / f".sealbus/nodes/{name}/{key}").stat().st_mode & 0o777 == 0o600
    assert "write `replicas: 3` below" in ran.err


def test_bus_file_names_all_nodes(bus: Path) -> None:
    assert prepare(bus).code == 0
    assert facts(bus)["servers"] == [
        "tls://n1.example.com:4222",
        "tls://n2.example.com:4222",
        "tls://10.0.0.3:4223",
    ]


def test_configuration_names_the_node_and_all_routes(bus: Path) -> None:
    assert prepare(bus, "--node-dir", "/etc/nats", "--routes-port", "7000").code == 0
    config = contents(bus)["n1.example.com-4222/nats.conf"].decode()
    for line in (
        'server_name: "n1.example.com-4222"',
        'name: "mybus"',
        'listen: "0.0.0.0:7000"',
        '"nats-route://n2.example.com:7000"',
        '"nats-route://10.0.0.3:7000"',
        'ca_file: "/etc/nats/nodes-ca.pem"',
        'cert_file: "/etc/nats/node.pem"',
        'cert_file: "/etc/nats/bus.pem"',
    ):
        assert line in config
    assert config.count("verify: true") == 2
    assert config.count('min_version: "1.3"') == 2


def test_nodes_on_one_host_share_no_folder(bus: Path) -> None:
    hosts = ("localhost:4222", "127.0.0.1:4223", "n1.example.com")
    ran = prepare(bus, "--node-dir", "/etc/nats", "--store", "/data", hosts=hosts)
    assert ran.code == 0, ran.err
    found = contents(bus)
    for name, part in (
        ("localhost-4222", "/localhost-4222"),
        ("127.0.0.1-4223", "/127.0.0.1-4223"),
        ("n1.example.com-4222", ""),
    ):
        config = found[f"{name}/nats.conf"].decode()
        assert f'store_dir: "/data{part}"' in config
        assert f'key_file: "/etc/nats{part}/node.key"' in config
        assert f", as /etc/nats{part};" in ran.err


def test_another_run_changes_nothing(bus: Path) -> None:
    assert prepare(bus).code == 0
    before = contents(bus)
    for ran in (prepare(bus), prepare(bus, hosts=())):
        assert ran.code == 0, ran.err
        assert "wrote" not in ran.err
        assert contents(bus) == before


def test_nodes_on_one_machine_have_ports_of_their_own(bus: Path) -> None:
    hosts = ("127.0.0.1:5001", "127.0.0.1:5002", "localhost:5003")
    assert prepare(bus, hosts=hosts).code == 0
    found = contents(bus)
    ports = [
        port
        for port in (6222, 6223, 6224)
        if any(f'listen: "127.0.0.1:{port}"'.encode() in one for one in found.values())
    ]
    assert ports == [6222, 6223, 6224]


def test_nodes_on_one_machine_are_monitored_on_other_ports(bus: Path) -> None:
    hosts = ("127.0.0.1:5001", "localhost:5002", "n1.example.com")
    ran = prepare(bus, "--monitor-port", "8222", hosts=hosts)
    assert ran.code == 0, ran.err
    found = contents(bus)
    for name, port in (
        ("127.0.0.1-5001", 8222),
        ("localhost-5002", 8223),
        ("n1.example.com-4222", 8222),
    ):
        assert f'http: "127.0.0.1:{port}"' in found[f"{name}/nats.conf"].decode()
    assert "6223 for the other nodes and 8223 for monitoring" in ran.err


@pytest.mark.parametrize(
    ("hosts", "options", "told"),
    [
        (
            ("a", "a:4223", "b"),
            ("--monitor-port", "6222"),
            "--routes-port and --monitor-port both need port 6222 of a",
        ),
        (
            ("a", "a:8222", "b"),
            ("--monitor-port", "8222"),
            "--monitor-port and --node both need port 8222 of a",
        ),
        (
            ("a", "a:4223", "b"),
            ("--routes-port", "4223"),
            "--routes-port and --node both need port 4223 of a",
        ),
        (
            ("a", "b", "c"),
            ("--second-site", "d", "--site-port", "6222"),
            "--routes-port and --site-port both need port 6222 of a",
        ),
        (
            ("localhost", "127.0.0.1", "b"),
            (),
            "--node and --node both need port 4222 of 127.0.0.1",
        ),
        (
            ("a", "a:4223", "b"),
            ("--monitor-port", "65535"),
            "--monitor-port leads to port 65536 of a; expected 1 to 65535",
        ),
    ],
)
def test_ports_that_cannot_be_had_together_are_refused(
    bus: Path, hosts: tuple[str, ...], options: tuple[str, ...], told: str
) -> None:
    ran = prepare(bus, *options, hosts=hosts)
    assert ran.code == 2
    assert told in ran.err
    assert not (bus / ".sealbus/nodes").exists()


def test_loopback_addresses_may_share_a_port(bus: Path) -> None:
    ran = prepare(bus, hosts=("127.0.0.1", "127.0.0.2", "127.0.0.3"))
    assert ran.code == 0, ran.err


def test_certificate_of_the_bus_keeps_its_names(bus: Path) -> None:
    names = ("n1.example.com", "bus.example.com")
    given = [part for name in names for part in ("--name", name)]
    assert quickly("certs", "init", *given, cwd=bus).code == 0
    assert prepare(bus).code == 0
    found = read((bus / ".sealbus/bus.pem").read_bytes()).names
    assert {*names, "n2.example.com", "10.0.0.3"} <= set(found)


def test_nodes_have_an_authority_of_their_own(bus: Path) -> None:
    """No certificate of a bot, or of the bus itself, is one of a node."""
    assert prepare(bus).code == 0
    assert quickly("certs", "init", cwd=bus).code == 0
    state = bus / ".sealbus"
    nodes, bots = ((state / name).read_bytes() for name in ("nodes-ca.pem", "ca.pem"))
    for name in NAMES:
        node = (state / "nodes" / name / "node.pem").read_bytes()
        assert is_issued_by(node, nodes)
        assert not is_issued_by(node, bots)
        assert read(node).uris == (f"sealbus-node://mybus/{name}",)
    for other in (state / "bus.pem", bus / "credentials/clock.pem"):
        assert not is_issued_by(other.read_bytes(), nodes)


@pytest.mark.parametrize(
    ("hosts", "told"),
    [
        (("a", "b"), "2 nodes; expected an odd number"),
        (("a", "b", "c", "d"), "4 nodes; expected an odd number"),
        (("a", "b", "a:4222"), "the node a:4222 occurs twice"),
        (("a", "b", "c:0"), "--node c:0 is not an address"),
        (("a", "b", "c d"), "--node c d is not an address"),
        ((), "1 nodes; expected an odd number"),
    ],
)
def test_unusable_nodes_are_refused(bus: Path, hosts: tuple[str, ...], told: str) -> None:
    ran = prepare(bus, hosts=hosts)
    assert ran.code != 0
    assert told in ran.err
    assert not (bus / ".sealbus/nodes").exists()


@pytest.mark.parametrize(
    "option", ["--nats-conf", "--listen", "--tls-name", "--tls-dir", "--server"]
)
def test_options_of_one_server_are_refused(bus: Path, option: str) -> None:
    ran = prepare(bus, option, "tls://x:4222" if option == "--server" else "x")
    assert ran.code != 0
    assert f"{option} is for one server" in ran.err


@pytest.mark.parametrize("option", ["--node", "--node-dir", "--routes-port"])
def test_options_of_a_cluster_are_refused_without_it(bus: Path, option: str) -> None:
    """A port that is the default one is refused too, because somebody expects an effect of it."""
    ran = quickly("prepare", option, "6222", cwd=bus)
    assert ran.code != 0
    assert f"{option} is for a cluster" in ran.err


def age(bus: Path, name: str) -> None:
    """Give a node a certificate that is due."""
    state = bus / ".sealbus"
    folder = state / "nodes" / name
    pair = Pair((state / "nodes-ca.pem").read_bytes(), (state / "nodes-ca.key").read_bytes())
    old = make_node(pair, "mybus", name, ["n1.example.com"], datetime.now(UTC) - timedelta(days=80))
    (folder / "node.pem").write_bytes(old.certificate)
    (folder / "node.key").write_bytes(old.key)


def test_due_certificate_of_a_node_is_noted_and_renewed(bus: Path) -> None:
    assert prepare(bus).code == 0
    name = "n1.example.com-4222"
    age(bus, name)
    assert f".sealbus/nodes/{name}/node.pem: is due" in quickly("check", cwd=bus).out
    assert "due" in quickly("certs", "show", cwd=bus).out
    ran = quickly("certs", "init", cwd=bus)
    assert f"wrote .sealbus/nodes/{name}/node.pem" in ran.err
    assert "node.pem: is due" not in quickly("check", cwd=bus).out
    assert read(contents(bus)[f"{name}/node.pem"]).names == ("n1.example.com",)


def test_renewed_certificate_of_the_bus_comes_into_each_folder(bus: Path) -> None:
    assert prepare(bus).code == 0
    assert quickly("certs", "init", "--renew", cwd=bus).code == 0
    for name in NAMES:
        for file in ("bus.pem", "bus.key"):
            assert contents(bus)[f"{name}/{file}"] == (bus / ".sealbus" / file).read_bytes()


def test_lost_authority_of_nodes_is_made_anew_for_all(bus: Path) -> None:
    assert prepare(bus).code == 0
    for file in ("nodes-ca.pem", "nodes-ca.key"):
        (bus / ".sealbus" / file).unlink()
    shutil.rmtree(bus / ".sealbus/nodes" / NAMES[0])
    assert prepare(bus).code == 0
    authority = (bus / ".sealbus/nodes-ca.pem").read_bytes()
    for name in NAMES:
        assert contents(bus)[f"{name}/nodes-ca.pem"] == authority
        assert is_issued_by(contents(bus)[f"{name}/node.pem"], authority)


@pytest.mark.parametrize("missing", ["nodes-ca.key", "nodes-ca.pem"])
def test_half_of_an_authority_of_nodes_is_not_replaced(bus: Path, missing: str) -> None:
    """Its key may be at a safe place, and nodes of two authorities would not find each other."""
    assert prepare(bus).code == 0
    before = contents(bus)
    (bus / ".sealbus" / missing).unlink()
    ran = prepare(bus)
    assert ran.code != 0
    assert f"{missing} is not" in ran.err
    assert "bring it back" in ran.err
    assert contents(bus) == before
    assert not (bus / ".sealbus" / missing).exists()
