"""``sealbus up --any-client``: a server with TLS that asks no client for a certificate."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from sealbus import Bot, Credentials
from tests.cli.command import sealbus
from tests.cli.folders import up
from tests.e2e.test_identities import made
from tests.e2e.tls_bus import made as made_with_tls
from tests.oidc.issuer import Issuer
from tests.ports import free_port


async def test_bot_without_key_and_certificate_publishes(tmp_path: Path, issuer: Issuer) -> None:
    """Its token comes from a token endpoint, and its credentials from a file."""
    bus = tmp_path / "shop"
    bus.mkdir()
    port = free_port()
    await asyncio.to_thread(made, bus, port, issuer)
    secret = bus / "credentials/greeter.secret"
    secret.touch(mode=0o600)
    secret.write_text("s3cr3t-of-order")
    issuer.subject = "greeter"
    facts = (bus / "bus.toml").read_text()
    path = bus / "credentials/greeter.toml"
    path.touch(mode=0o600)
    path.write_text(
        'bus = "shop"\nbot = "greeter"\nca = "ca.crt"\n'
        + "".join(
            line
            for line in facts.splitlines(keepends=True)
            if line.startswith(("servers", "bus_k"))
        )
        + f'[oidc]\ntoken_url = "{issuer.url}/token"\nclient_id = "order-client"\n'
        f'client_secret_file = "greeter.secret"\nca = "{issuer.ca}"\n'
    )
    assert os.access(bus / "credentials/ca.crt", os.R_OK)
    assert (await asyncio.to_thread(sealbus, "check", cwd=bus)).code == 0
    with up(bus, "--any-client"):
        async with Bot(Credentials.load(path)) as greeter:
            await greeter.publish("greetings.sent", {"text": "hello"})
        ran = await asyncio.to_thread(
            sealbus, "pub", "greetings.sent", '{"text": "hi"}', "--as", "greeter", cwd=bus
        )
        assert ran.code == 0, ran.err


BOUND = "  greeter:\n    certificate: sealbus://mybus/greeter\n"


@pytest.fixture
def bound_bus(tmp_path: Path) -> Path:
    """A bus with TLS, whose greeter is bound to its certificate."""
    bus = made_with_tls(tmp_path)
    policy = bus / "policy.yaml"
    policy.write_text(policy.read_text().replace("  greeter:\n", BOUND))
    return bus


def test_server_of_ones_own_asks_nobody_either(bound_bus: Path) -> None:
    conf = bound_bus / ".sealbus/nats.conf"
    for options, verifies in (((), True), (("--any-client",), False)):
        ran = sealbus("prepare", *options, cwd=bound_bus)
        assert ran.code == 0, ran.err
        assert ("verify: true" in conf.read_text()) is verifies
        assert ("are refused: greeter" in ran.err) is not verifies


def test_bots_that_it_locks_out_are_named_at_the_start(bound_bus: Path) -> None:
    with up(bound_bus, "--any-client") as log:
        assert "are refused: greeter" in log.read_text()
