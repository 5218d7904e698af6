"""A bus with TLS in a folder, and the renewal of its certificates while it runs."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path

from tests.cli.command import sealbus
from tests.ports import free_port
from tests.waiting import until


def made(folder: Path) -> Path:
    """Make a bus with certificates below ``folder``. Returns the bus's folder."""
    port = free_port()
    for arguments in (
        ("init", "mybus", "--server", f"nats://127.0.0.1:{port}"),
        ("certs", "init", "--dir", "mybus"),
    ):
        ran = sealbus(*arguments, cwd=folder)
        assert ran.code == 0, ran.err
    return folder / "mybus"


def port_of(bus: Path) -> int:
    """The port of the bus's server."""
    return int((bus / "bus.toml").read_text().partition("127.0.0.1:")[2][:5].rstrip('"]'))


def shown_by(port: int, bus: Path) -> bytes:
    """The certificate that the server shows."""
    context = ssl.create_default_context(cafile=str(bus / "credentials/ca.crt"))
    files = (bus / "credentials/clock.pem", bus / "credentials/clock.key")
    context.load_cert_chain(*files)
    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
    ):
        shown = secure.getpeercert(binary_form=True)
    assert shown is not None
    return shown


async def shows_another(port: int, bus: Path, before: bytes) -> bool:
    """Whether the server shows another certificate than ``before``."""
    return await asyncio.to_thread(shown_by, port, bus) != before


async def renew(bus: Path, port: int) -> None:
    """Renew all certificates, and wait until the server shows its new one."""
    before = await asyncio.to_thread(shown_by, port, bus)
    ran = await asyncio.to_thread(sealbus, "certs", "init", "--renew", cwd=bus)
    assert ran.code == 0, ran.err
    await until(lambda: shows_another(port, bus, before), "the server shows its new certificate")
