"""The README's recipe for a network: an own nats-server with TLS, and an own authority."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sealbus_broker.server.process import find_binary
from tests.cli.command import SEALBUS, sealbus, wait_for
from tests.docs.places import ROOT
from tests.ports import free_port
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="certificates are made with the openssl command"
)

REQUEST = "openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
SIGN = "openssl x509 -req -CA ca.pem -CAkey ca.key -CAcreateserial -days 2"
# From Python 3.13 on, an authority needs the key usage, and a server's certificate the identifier.
AUTHORITY = f"{REQUEST} -x509 -days 2 -subj /CN=testing -addext keyUsage=critical,keyCertSign"
NAMES = "subjectAltName=IP:127.0.0.1\nauthorityKeyIdentifier=keyid\n"
CERTIFICATES = (
    f"{AUTHORITY} -keyout ca.key -out ca.pem",
    f"{REQUEST} -subj /CN=localhost -keyout server.key -out server.csr",
    f"{SIGN} -in server.csr -extfile names -out server.pem",
)


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """A folder with a certificate authority and a server's certificate."""
    folder = tmp_path / "certificates"
    folder.mkdir()
    (folder / "names").write_text(NAMES)
    for line in CERTIFICATES:
        subprocess.run(line.split(), cwd=folder, check=True, capture_output=True)
    return folder


@contextlib.contextmanager
def running(command: list[str], log: Path, said: str, **environment: str) -> Iterator[None]:
    """A process with ``said`` in its log."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env={**os.environ, **environment}
        )
    try:
        wait_for(log, said)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_S)


def test_the_recipe_of_the_readme_works(tmp_path: Path, certificates: Path) -> None:
    url = f"tls://127.0.0.1:{(port := free_port())}"
    bus, trusted = tmp_path / "bus", str(certificates / "ca.pem")
    assert sealbus("init", "bus", "--server", url, cwd=tmp_path).code == 0
    prepared = sealbus(
        "prepare", "--listen", f"127.0.0.1:{port}", "--store", str(tmp_path / "store"), cwd=bus
    )
    assert prepared.code == 0, prepared.err
    config = readme_config().replace("/etc/ssl/bus.pem", f"{certificates}/server.pem")
    (bus / "nats.conf").write_text(config.replace("/etc/ssl/bus.key", f"{certificates}/server.key"))
    with (
        running(
            [str(find_binary()), "-c", str(bus / "nats.conf")],
            tmp_path / "nats.log",
            "Server is ready",
        ),
        running(
            [*SEALBUS, "relay", "--dir", str(bus)],
            tmp_path / "relay.log",
            "is up at",
            SSL_CERT_FILE=trusted,
        ),
    ):
        publish = ("pub", "greetings.sent", '{"text": "hello"}', "--as", "greeter")
        trusting = sealbus(*publish, cwd=bus, variables={"SSL_CERT_FILE": trusted})
        assert trusting.code == 0, trusting.err


def readme_config() -> str:
    """The configuration in the README."""
    section = (ROOT / "README.md").read_text().split("## On a network")[1]
    return section.split("```")[1].removeprefix("\n")
