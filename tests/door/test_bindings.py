"""Bots that the policy binds to certificates, on a real nats-server with mutual TLS."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from nats.errors import Error as NatsError
from structlog.testing import capture_logs

from sealbus.nats.client import HardenedClient
from sealbus.nats.tls_files import TlsFiles
from sealbus.protocol.keys import SigningKey
from sealbus.protocol.seal import sign_connect
from sealbus_broker import certificates
from sealbus_broker.certificates import Pair, make_authority, make_bot, make_bus
from sealbus_broker.nats.config import ServerTls
from tests.scene import Scene, now_ms, raise_curtain
from tests.waiting import PATIENCE_S, until

NAME = "sealbus://shop/order"


class Secure:
    """A scene with TLS, and the certificates of its bots."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.authority = make_authority("shop", datetime.now(UTC))
        self.write("ca", Pair(self.authority.certificate, b""))
        self.write("bus", make_bus(self.authority, "shop", ["127.0.0.1"], datetime.now(UTC)))
        for bot in ("order", "inventory"):
            self.write(bot, make_bot(self.authority, "shop", bot, datetime.now(UTC)))
        self.scene: Scene

    def write(self, name: str, pair: Pair) -> None:
        (self._folder / f"{name}.pem").write_bytes(pair.certificate)
        key = self._folder / f"{name}.key"
        key.write_bytes(pair.key)
        key.chmod(0o600)

    def files(self, name: str) -> TlsFiles:
        return TlsFiles(*(self._folder / one for one in ("ca.pem", f"{name}.pem", f"{name}.key")))

    def bind(self, *names: str) -> None:
        """The policy binds the order bot."""
        scene = self.scene
        rule = replace(scene.policy.bots["order"], certificate_names=names)
        scene.change(bots=dict(scene.policy.bots) | {"order": rule})

    async def log_in(self, certificate: str, key: SigningKey | None = None) -> HardenedClient:
        """Log in as the order bot."""
        scene = self.scene
        signer = key or scene.keys["order"]
        text = f"sealbus/1 order {signer.public.text} -"
        client = HardenedClient(self.files(certificate))
        scene.open.append(client)
        await client.connect(
            servers=[scene.url],
            name=f"order {signer.public.text}",
            token=text,
            signature_cb=lambda nonce: base64.b64encode(
                sign_connect(signer, str(nonce).encode(), text.encode())
            ),
            allow_reconnect=False,
            connect_timeout=PATIENCE_S,
        )
        return client

    async def refused(self, certificate: str) -> str:
        """The reason in the log. The bot learns none."""
        with capture_logs() as logs, pytest.raises(NatsError, match=r"(?i)authorization violation"):
            await self.log_in(certificate)
        (entry,) = logs
        assert (entry["event"], entry["bot"]) == ("admission.denied", "order")
        return str(entry["why"])


@pytest.fixture
async def secure(tmp_path: Path) -> AsyncIterator[Secure]:
    made = Secure(tmp_path)
    files = made.files("bus")
    assert files.cert is not None
    assert files.key is not None
    made.scene = await raise_curtain(tmp_path, ServerTls(files.ca, files.cert, files.key))
    yield made
    await made.scene.close()


async def test_bound_bot_comes_in_by_its_certificate_alone(secure: Secure) -> None:
    secure.bind(NAME)
    assert (await secure.log_in("order")).is_connected
    why = await secure.refused("inventory")
    assert why == (
        "the certificate of the connection is for sealbus://shop/inventory;"
        " the policy binds to sealbus://shop/order"
    )


async def test_certificate_of_the_bus_is_no_bots(secure: Secure) -> None:
    secure.bind(NAME)
    assert "sealbus://shop/sealbus" in await secure.refused("bus")


async def test_host_name_binds_too(secure: Secure) -> None:
    secure.write("host", make_bus(secure.authority, "shop", ["order.example"], datetime.now(UTC)))
    secure.bind("dns:order.example")
    assert (await secure.log_in("host")).is_connected
    assert "dns:order.example" in await secure.refused("order")


async def test_certificate_without_the_key_opens_nothing(secure: Secure) -> None:
    secure.bind(NAME)
    with capture_logs() as logs, pytest.raises(NatsError):
        await secure.log_in("order", secure.scene.keys["thief"])
    assert [entry["why"] for entry in logs] == ["the key is not one of this bot's"]


async def test_binding_without_tls_lets_nobody_in(scene: Scene) -> None:
    rule = replace(scene.policy.bots["order"], certificate_names=(NAME,))
    scene.change(bots=dict(scene.policy.bots) | {"order": rule})
    with capture_logs() as logs, pytest.raises(NatsError, match=r"(?i)authorization violation"):
        await scene.bot("order")
    assert [entry["why"] for entry in logs] == [
        "the policy binds this bot to a certificate, and its connection has no TLS"
    ]
    assert (await scene.bot("inventory")).nc.is_connected


async def test_session_ends_with_its_certificate(
    secure: Secure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the policy binds to none."""
    monkeypatch.setattr(certificates, "LIFE", timedelta(seconds=8))
    secure.write("short", make_bot(secure.authority, "shop", "order", datetime.now(UTC)))
    began = now_ms()
    client = await secure.log_in("short")
    await until(lambda: client.is_closed, "the session is over")
    assert now_ms() - began < secure.scene.policy.limits.session_ms / 4
