"""A bot without any key on a running bus: it logs in with tokens of an identity provider."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from sealbus import Bot, Credentials, Message, SealbusError
from sealbus.life import exchanging
from sealbus.protocol.certificate import Certificate
from sealbus.protocol.keys import KeyKind, PublicKey
from sealbus_broker.nats.config import NatsConfig, ServerTls
from sealbus_broker.relay.relay import Relay
from sealbus_broker.server.process import NatsServer
from tests.cli.command import PATIENTLY, sealbus
from tests.e2e.edits import edit, keys_are_of_an_earlier_second
from tests.e2e.order import Loss, out_of_order
from tests.e2e.shop import Shop
from tests.oidc.issuer import Issuer
from tests.refusal import refusal
from tests.scene import now_ms
from tests.waiting import PATIENCE_S, patiently, until

VOIDS = 3
LIFE_MS = 8_000
EXCHANGES = 4
"""How many certificates the test of a steady bot goes through."""


def made(folder: Path, port: int, issuer: Issuer) -> None:
    """A bus with TLS, whose greeter and listener have identities and no key."""

    def run(*arguments: str) -> None:
        ran = sealbus(*arguments, cwd=folder)
        assert ran.code == 0, ran.err

    run("init", "shop", "--server", f"nats://127.0.0.1:{port}", "--dir", ".")
    run("certs", "init", "--name", "127.0.0.1")
    run("keys", "issuer")
    for bot in ("greeter", "listener"):
        (folder / f"keys/{bot}.yaml").unlink()
        (folder / f"credentials/{bot}.toml").unlink()
    policy = (folder / "policy.yaml").read_text()
    provider = (
        f"identity_providers:\n  idp: {{issuer: '{issuer.url}', audience: sealbus:shop,"
        f" ca: '{issuer.ca}'}}\n\nbots:\n"
    )
    policy = policy.replace("bots:\n", provider).replace("clock_skew: 2s", "clock_skew: 100ms")
    for bot in ("greeter", "listener"):
        entry = f"  {bot}:\n    identities: [{{provider: idp, subject: {bot}}}]\n"
        policy = policy.replace(f"  {bot}:\n", entry)
    (folder / "policy.yaml").write_text(policy)


class TokenShop(Shop):
    """A bus whose server asks no client for a certificate."""

    def __init__(self, folder: Path, issuer: Issuer) -> None:
        self.issuer = issuer
        super().__init__(folder, lambda path: made(path, self.port, issuer))
        self.url = f"tls://127.0.0.1:{self.port}"
        self.urls = (self.url,)

    def _make_server(self) -> NatsServer:
        state = self.bus.state
        config = NatsConfig(
            store_dir=state / "jetstream",
            relay=self.secrets.relay.public,
            issuer=self.secrets.issuer.public,
            port=self.port,
            tls=ServerTls(
                state / "ca.pem", state / "bus.pem", state / "bus.key", asks_clients=False
            ),
        )
        return NatsServer(config, state)

    def keyless(self, bot: str, token: Any = None, **options: Any) -> Bot:
        """A bot that has nothing but a source of tokens, and the authority of the bus."""
        credentials = Credentials.from_oidc(
            bus="shop",
            bot=bot,
            servers=[self.url],
            bus_keys=[self.secrets.bus.public.text],
            token=token if token is not None else lambda: self.issuer.token(bot),
            ca=self.bus.state / "ca.pem",
        )
        return Bot(credentials, **options)


@pytest.fixture
async def shop(tmp_path: Path, issuer: Issuer) -> AsyncIterator[TokenShop]:
    async with await asyncio.to_thread(TokenShop, tmp_path / "shop", issuer) as running:
        yield running


@dataclass
class Traffic:
    """Numbered messages from the greeter to the listener."""

    heard: list[int] = field(default_factory=list)
    sent: int = 0
    losses: list[Loss] = field(default_factory=list)
    """The times at which the listener lost its session."""
    excused: list[Loss] = field(default_factory=list)
    """Those of them that a busy machine explains."""


def was_late(bot: Bot) -> bool:
    """Whether a session ended because its bot had no turn for seconds.

    Its certificate has ended, to the second, or its event loop was blocked.
    """
    certificate = Certificate.decode(bot._session.key.certificate)
    left_ms = certificate.not_before_ms + certificate.life_ms - now_ms()
    return left_ms <= 1000 or bot._session._blocking.cause is not None


async def in_step(shop: TokenShop, act: Callable[[Bot], Any], **options: Any) -> Traffic:
    """Publish without a pause while ``act`` runs."""
    traffic = Traffic()
    listener, greeter = shop.keyless("listener", **options), shop.keyless("greeter", **options)

    @listener.subscribe("greetings.sent")
    async def hear(message: Message) -> None:
        traffic.heard.append(int(message.payload["text"]))

    @listener.on_lost
    def lost(_: Bot) -> None:
        loss = Loss(max(traffic.heard, default=-1), traffic.sent)
        traffic.losses.append(loss)
        if was_late(listener):
            traffic.excused.append(loss)

    async with listener, greeter:
        stopping = asyncio.Event()

        async def publish() -> None:
            while not stopping.is_set():
                greeting = {"text": str(traffic.sent)}
                await greeter.publish("greetings.sent", greeting, timeout=PATIENCE_S)
                traffic.sent += 1

        async with asyncio.TaskGroup() as tasks:
            publishing = tasks.create_task(publish())
            await until(lambda: len(traffic.heard) > 5 or publishing.done(), "traffic flows")
            await act(greeter)
            stopping.set()
        await until(lambda: len(traffic.heard) >= traffic.sent, "all have come")
    return traffic


async def test_bot_without_a_key_goes_through_several_exchanges(
    shop: TokenShop, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Short certificates, each exchanged anew from half of its life on."""
    monkeypatch.setattr(exchanging, "LEAST_S", 0.5)
    policy = shop.bus.policy(shop.secrets.bus.public)
    policy = replace(policy, limits=replace(policy.limits, session_key_ms=LIFE_MS))
    stopping, ready = asyncio.Event(), asyncio.Event()
    relay = Relay(
        servers=[shop.url],
        secrets=shop.secrets,
        policy=policy,
        name="relay",
        tls=shop.bus.own_tls(),
    )
    running = asyncio.create_task(relay.run(stopping, ready.set))
    await patiently(ready.wait())
    keys: set[bytes] = set()

    async def several(greeter: Bot) -> None:
        def count() -> bool:
            keys.add(greeter._session.key.key.public.raw)
            return len(keys) > EXCHANGES

        await until(count, lambda: f"{len(keys)} session keys")

    try:
        traffic = await in_step(shop, several)
    finally:
        stopping.set()
        with suppress(SealbusError):
            await running
    assert sorted(traffic.heard) == list(range(traffic.sent))
    assert out_of_order(traffic.heard, traffic.excused) == 0
    assert len(keys) > EXCHANGES


async def test_void_issuer_key_has_bots_exchange_anew(shop: TokenShop) -> None:
    await shop.start_relay()

    async def void(_: Bot) -> None:
        for _round in range(VOIDS):
            ran = await asyncio.to_thread(
                sealbus, "keys", "void", "sealbus", "--wait", *PATIENTLY, cwd=shop.bus.path
            )
            assert ran.code == 0, ran.err

    traffic = await in_step(shop, void)
    # The listener's session is ended as well.
    assert sorted(traffic.heard) == list(range(traffic.sent))
    assert out_of_order(traffic.heard, traffic.losses) == 0


async def test_new_issuer_key_needs_no_restart(shop: TokenShop) -> None:
    """A bot with a certificate by the key of before goes on."""
    await shop.start_relay()

    async def renew(_: Bot) -> None:
        ran = await asyncio.to_thread(sealbus, "keys", "issuer", "--new", cwd=shop.bus.path)
        assert ran.code == 0, ran.err
        new = PublicKey.parse(ran.out.strip(), KeyKind.BOT).raw

        async def certifies() -> bool:
            async with shop.keyless("greeter") as another:
                certificate = Certificate.decode(another._session.key.certificate)
                return certificate.enrolled == new

        await until(certifies, "the relay certifies with the new key")

    traffic = await in_step(shop, renew)
    assert traffic.heard == list(range(traffic.sent))


async def test_bot_whose_identity_is_taken_away_is_thrown_out(shop: TokenShop) -> None:
    await shop.start_relay()
    async with shop.keyless("greeter") as greeter:
        await greeter.publish("greetings.sent", {"text": "hello"})
        issuer = shop.secrets.session_issuer
        assert issuer is not None
        ran = await asyncio.to_thread(sealbus, "keys", "sessions", "--json", cwd=shop.bus.path)
        assert PublicKey(issuer.public.raw, KeyKind.BOT).text in ran.out
        edit(shop, "    identities: [{provider: idp, subject: greeter}]\n", "")
        await until(lambda: not greeter._session.is_up, "the session is ended")
        await until(
            lambda: "the bus has ended the session of greeter" in str(greeter._session.explain()),
            "the bot is told",
        )
        ran = await asyncio.to_thread(sealbus, "keys", "sessions", "--json", cwd=shop.bus.path)
        assert "greeter" not in ran.out


async def test_void_ends_who_came_by_an_identity_that_was_replaced(shop: TokenShop) -> None:
    """Its certificate does not say by which identity it came, so the edit alone ends nothing."""
    await shop.start_relay()
    async with shop.keyless("greeter") as greeter:
        await greeter.publish("greetings.sent", {"text": "hello"})
        edit(shop, "provider: idp, subject: greeter", "provider: idp, subject: other")
        ran = await asyncio.to_thread(sealbus, "reload", "--wait", *PATIENTLY, cwd=shop.bus.path)
        assert ran.code == 0, ran.err
        await greeter.publish("greetings.sent", {"text": "still here"})
        await keys_are_of_an_earlier_second()
        void = ("keys", "void", "sealbus", "--wait", *PATIENTLY)
        ran = await asyncio.to_thread(sealbus, *void, cwd=shop.bus.path)
        assert ran.code == 0, ran.err
        ran = await asyncio.to_thread(sealbus, "keys", "sessions", "--json", cwd=shop.bus.path)
        assert "greeter" not in ran.out
        await until(
            lambda: "not admitted" in str(greeter._session.explain()),
            "its tokens are refused",
        )


async def test_process_with_a_used_token_says_so(shop: TokenShop, tmp_path: Path) -> None:
    """As after a restart. It comes in by itself when the file has another token."""
    await shop.start_relay()
    file = tmp_path / "token"

    def write() -> None:
        file.write_text(shop.issuer.token("greeter") + "\n")
        file.chmod(0o600)

    write()
    async with shop.keyless("greeter", file) as first:
        await first.publish("greetings.sent", {"text": "hello"})
        second = shop.keyless("greeter", file)
        connecting = asyncio.create_task(second.connect(timeout=PATIENCE_S))
        try:
            await until(
                lambda: "by another process" in str(second._session.explain()),
                lambda: str(second._session.explain()),
            )
            write()
            await patiently(connecting)
            await second.publish("greetings.sent", {"text": "hello again"})
        finally:
            connecting.cancel()
            await second.close()


async def test_refused_token_is_explained(shop: TokenShop) -> None:
    await shop.start_relay()
    bot = shop.keyless("greeter", lambda: shop.issuer.token("clerk"))
    told = await refusal(bot, "did not exchange the token")
    assert "admission.denied" in str(told.hint)
    log = (shop.bus.path / "relay.log").read_text()
    assert "no identity of the bot fits the token of idp for clerk" in log
