"""``sealbus prepare`` on a bus with certificates: the server's TLS, and where its files are."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sealbus_broker.certificates import read
from sealbus_broker.server.folder import ServerFolder
from tests.cli.command import Ran, quickly
from tests.cli.folders import everything, facts


@pytest.fixture
def bus(tmp_path: Path) -> Path:
    """A folder of a bus without TLS."""
    assert quickly("init", "mybus", cwd=tmp_path).code == 0
    return tmp_path / "mybus"


@pytest.fixture
def tls_bus(bus: Path) -> Path:
    assert quickly("certs", "init", cwd=bus).code == 0
    return bus


def prepare(bus: Path, *options: str, listen: str = "0.0.0.0:4222") -> Ran:
    return quickly("prepare", "--listen", listen, *options, cwd=bus)


def config(bus: Path) -> str:
    return (bus / ".sealbus/nats.conf").read_text()


def test_server_of_a_bus_with_certificates_has_tls(tls_bus: Path) -> None:
    ran = prepare(tls_bus)
    assert ran.code == 0, ran.err
    assert "no TLS" not in ran.err
    state = tls_bus / ".sealbus"
    for line in (
        f'cert_file: "{state}/bus.pem"',
        f'key_file: "{state}/bus.key"',
        f'ca_file: "{state}/ca.pem"',
        "verify: true",
        'min_version: "1.3"',
        "handshake_first: true",
    ):
        assert line in config(tls_bus)


@pytest.mark.parametrize(
    ("listen", "noted"), [("0.0.0.0:4222", True), ("127.0.0.1:4222", False), ("[::1]:4222", False)]
)
def test_server_without_tls_is_noted_beyond_this_machine(
    bus: Path, listen: str, noted: bool
) -> None:
    ran = prepare(bus, listen=listen)
    assert ran.code == 0, ran.err
    assert "tls {" not in config(bus)
    assert ("the server has no TLS" in ran.err) is noted


def test_paths_are_those_of_the_servers_machine(tls_bus: Path) -> None:
    assert prepare(tls_bus, "--tls-dir", "/etc/nats").code == 0
    assert 'key_file: "/etc/nats/bus.key"' in config(tls_bus)


def test_certificates_are_copied_without_the_authoritys_key(tls_bus: Path, tmp_path: Path) -> None:
    copies = tmp_path / "copies"
    copies.mkdir()
    assert prepare(tls_bus, "--tls-dir", str(copies), "--copy-tls").code == 0
    assert sorted(file.name for file in copies.iterdir()) == ["bus.key", "bus.pem", "ca.pem"]
    for file in copies.iterdir():
        assert file.read_bytes() == (tls_bus / ".sealbus" / file.name).read_bytes()
    assert (copies / "bus.key").stat().st_mode & 0o777 == 0o600


def test_missing_certificates_are_made_for_a_name(bus: Path) -> None:
    ran = prepare(bus, "--tls-name", "bus.example.com")
    assert ran.code == 0, ran.err
    assert "tls {" in config(bus)
    certificate = bus / ".sealbus/bus.pem"
    before = certificate.read_bytes()
    assert "bus.example.com" in read(before).names
    servers = facts(bus)["servers"]
    assert isinstance(servers, list)
    assert all(str(one).startswith("tls://") for one in servers)
    assert prepare(bus, "--tls-name", "bus.example.com").code == 0
    assert certificate.read_bytes() == before
    assert prepare(bus, "--tls-name", "other.example.com").code == 0
    assert "other.example.com" in read(certificate.read_bytes()).names


def test_files_of_another_authority_keep_their_paths(tls_bus: Path, tmp_path: Path) -> None:
    for name in ("ca.pem", "bus.pem", "bus.key"):
        shutil.move(tls_bus / ".sealbus" / name, tmp_path / f"x-{name}")
    names = (("ca", "ca.pem"), ("cert", "bus.pem"), ("key", "bus.key"))
    table = "".join(f'{field} = "{tmp_path}/x-{name}"\n' for field, name in names)
    file = tls_bus / "bus.toml"
    file.write_text(file.read_text() + "\n[tls]\n" + table)
    assert prepare(tls_bus, "--tls-dir", "/tls").code == 0
    assert 'ca_file: "/tls/x-ca.pem"' in config(tls_bus)
    refused = prepare(tls_bus, "--tls-name", "a.example")
    assert refused.code == 1
    assert "names certificates of another authority" in refused.err


@pytest.mark.parametrize("options", [[], ["--nats-conf", "link/nats.conf"]])
def test_configuration_of_a_bus_that_runs_is_not_written(bus: Path, options: list[str]) -> None:
    (bus / "link").symlink_to(bus / ".sealbus")
    running = ServerFolder(bus / ".sealbus")  # as `sealbus up` has it
    running.take()
    running.write_config("its own")
    before = everything(bus)
    try:
        ran = prepare(bus, *options)
        assert ran.code == 1
        assert "nats.conf is the configuration of a `sealbus up` that runs" in ran.err
        assert "--nats-conf" in ran.err
        assert everything(bus) == before
        assert prepare(bus, "--nats-conf", "other.conf").code == 0
        assert config(bus) == "its own"
    finally:
        running.release()
    assert prepare(bus, *options).code == 0
    assert config(bus) == (bus / "other.conf").read_text()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--copy-tls"], "--copy-tls needs --tls-dir"),
        (["--tls-dir", "/tls"], "is for a bus with TLS, and this bus has no certificates"),
        (["--tls-name", "a b"], "no host name and no address"),
        (["--tls-name", "a", "--server", "nats://a:1"], "write tls:// in place of nats://"),
    ],
)
def test_options_that_do_not_fit_are_refused(bus: Path, options: list[str], told: str) -> None:
    ran = prepare(bus, *options)
    assert ran.code in (1, 2)
    assert told in ran.err


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--copy-tls"], 2),
        (["--listen", "nowhere"], 2),
        (["--tls-name", "a b"], 2),
        (["--tls-name", "a", "--server", "nats://a:1"], 2),
        (["--node", "a"], 2),
        (["--site-port", "7000"], 2),
        (["--second-site", "a b"], 2),
        (["--cluster", "--listen", "127.0.0.1:4222"], 2),
        (["--cluster", "--node", "a", "--node", "b"], 2),
        (["--cluster", "--node", "a..b", "--node", "c", "--node", "d"], 2),
        (["--second-site", "a..b"], 2),
        (["--sync", "soon"], 2),
        (["--sync", "0s"], 2),
        (["--tls-dir", "/tls"], 1),
        (["--second-site", "a.example"], 1),
    ],
)
def test_refused_command_line_does_nothing(bus: Path, options: list[str], code: int) -> None:
    """In a clone, the command would otherwise make another bus key first."""
    (bus / ".sealbus/relay.toml").unlink()
    before = everything(bus)
    assert quickly("prepare", "--new-keys", *options, cwd=bus).code == code
    assert everything(bus) == before
