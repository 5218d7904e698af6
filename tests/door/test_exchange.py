"""A token of an identity provider is exchanged once, over TLS, for a certificate of one bot."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nats.errors
import pytest
from nats.aio.client import Client

from sealbus.nats.records import read_subject, record_subject
from sealbus.nats.tls_files import TlsFiles
from sealbus.protocol.admission import AdmissionText
from sealbus.protocol.certificate import Certificate, SessionKey
from sealbus.protocol.exchange import PREFIX, TOKEN, ExchangeRecord, inbox, record_id
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus.protocol.limits import MAX_TOKEN_BYTES
from sealbus.protocol.seal import Verifier, sign_connect
from sealbus_broker.door import errands
from sealbus_broker.door import exchange as exchange_module
from sealbus_broker.door.admission import Admission
from sealbus_broker.door.errands import NotRecorded
from sealbus_broker.door.exchange import Exchange
from sealbus_broker.gate.identities import Identity
from sealbus_broker.gate.policy import BotKey, BotRule, Policy
from sealbus_broker.nats.config import ServerTls
from sealbus_broker.nats.connection import connect
from sealbus_broker.nats.connections import list_sessions
from sealbus_broker.nats.provision import provision
from sealbus_broker.nats.records import write_once
from sealbus_broker.oidc.token import Token
from sealbus_broker.relay.secrets import BusSecrets
from sealbus_broker.server.process import NatsServer
from tests.client.certificates import Authority
from tests.oidc.issuer import Issuer
from tests.scene import Scene, a_config, a_policy, no_quiet, now_ms, read_as_stranger
from tests.waiting import until


@dataclass
class Exchanging:
    """A bus with TLS, an identity provider, and a bot without a key of its own."""

    scene: Scene
    issuer: Issuer
    tls: TlsFiles
    relays: list[Admission]

    @property
    def session_issuer(self) -> SigningKey:
        made = self.scene.secrets.session_issuer
        assert made is not None
        return made

    async def client(
        self, text: str, key: SigningKey, name: str | None = None, **more: Any
    ) -> Client:
        """Log in with an admission text. ``name``: the client's name, by default the bot's."""

        def answer(challenge: str) -> bytes:
            return base64.b64encode(sign_connect(key, challenge.encode(), text.encode()))

        name = name or text.split(" ")[1]
        options = {"tls": self.tls.context(), "tls_handshake_first": True, "name": name}
        return await self.scene.client(token=text, signature_cb=answer, **{**options, **more})

    async def exchange(self, token: str, key: SigningKey, bot: str = "order") -> ExchangeRecord:
        """What the bus remembers of a token, read by the login with it."""
        text = admission(token, key, bot)
        client = await self.client(text, key, inbox_prefix=inbox(record_id(token)))
        asked = read_subject(record_subject(TOKEN, record_id(token)))
        data = await read_as_stranger(client, asked)
        await client.close()
        return ExchangeRecord.decode(data)

    async def log_in(self, record: ExchangeRecord, key: SigningKey) -> Client:
        """Log in with a certificate that was given in exchange."""
        said = AdmissionText.of(SessionKey(key, record.certificate), "order")
        return await self.client(said.encode(), key, said.client_name)

    async def relay(self) -> Admission:
        """Begin to answer logins at another relay, which has seen no token."""
        scene = self.scene
        made = Admission(
            nc=scene.relay,
            issuer=scene.secrets.issuer,
            policy=lambda: scene.policy,
            session_issuer=lambda: scene.secrets.session_issuer,
            monotonic=no_quiet(),
        )
        await made.start()
        self.relays.append(made)
        return made


def admission(token: str, key: SigningKey, bot: str = "order", more: str = "") -> str:
    return AdmissionText(bot, key.public.text, certificate=PREFIX + token).encode() + more


def a_key() -> SigningKey:
    return SigningKey.generate(KeyKind.BOT)


def the_policy(secrets: BusSecrets, issuer: Issuer) -> Policy:
    assert secrets.session_issuer is not None
    raw = secrets.session_issuer.public.raw
    issuers = {raw: BotKey(raw, 0)}
    identity = Identity(issuer.provider(), "order")
    order = BotRule("order", issuers, subscribe=("orders.>",), identities=(identity,))
    other = BotRule("other", issuers, identities=(Identity(issuer.provider(), "other"),))
    return replace(a_policy(order, other, BotRule("plain", {})), session_issuers=issuers)


@pytest.fixture
async def bus(tmp_path: Path, issuer: Issuer) -> AsyncIterator[Exchanging]:
    (folder := tmp_path / "tls").mkdir()
    authority = Authority(folder)
    cert, key = authority.server("127.0.0.1")
    key.chmod(0o600)
    secrets = BusSecrets.generate()
    tls = ServerTls(authority.file, cert, key, asks_clients=False)
    server = NatsServer(replace(a_config(folder, secrets), tls=tls), folder)
    await server.start()

    async def ignore(_: Exception) -> None:
        pass

    files = TlsFiles(authority.file)
    seed = secrets.relay.seed_text
    nc = await connect([server.url], seed, name="test relay", on_error=ignore, tls=files)
    policy = the_policy(secrets, issuer)
    await provision(nc, policy)
    made = Exchanging.__new__(Exchanging)
    scene = Scene(server, secrets, policy, {}, nc, None, open=[nc])  # type: ignore[arg-type]
    made.__init__(scene, issuer, files, [])  # type: ignore[misc]
    await made.relay()
    yield made
    for one in made.relays:
        await one.stop()
    await scene.close()


async def refused(bus: Exchanging, text: str, key: SigningKey, **options: Any) -> None:
    try:
        client = await bus.client(text, key, **options)
    except nats.errors.Error as error:
        assert "authorization violation" in str(error).lower()
    else:
        # nats-py takes a question of nats-server amid a slow login for the answer to its own.
        await until(lambda: client.is_closed, "nats-server ends the login")


async def denied(bus: Exchanging, log: pytest.CaptureFixture[str], why: str, *login: Any) -> None:
    """The login is refused, and the log has the reason."""
    log.readouterr()
    await refused(bus, *login)
    said = log.readouterr().out
    assert "admission.denied" in said
    assert why in said
    assert not any(part in said for part in login[0].partition(PREFIX)[2].split(".") if part)


# ---- an exchange -------------------------------------------------------------------------------


async def test_certificate_from_an_exchange_opens_a_session(bus: Exchanging) -> None:
    key = a_key()
    before_ms = now_ms()
    record = await bus.exchange(bus.issuer.token(), key)
    certificate = Certificate.decode(record.certificate)
    assert record.key == key.public.raw
    assert certificate.enrolled == bus.session_issuer.public.raw
    assert certificate.life_ms == bus.scene.policy.limits.session_key_ms
    assert before_ms <= certificate.not_before_ms <= now_ms()
    assert certificate.holds(Verifier(), bus="shop", bot="order", key=key.public.raw)
    client = await bus.log_in(record, key)
    await client.subscribe("bus.orders.placed")
    await client.flush()
    (session,) = (await list_sessions(bus.scene.relay)).sessions
    assert (session.bot, session.key) == ("order", bus.session_issuer.public.text)


async def test_session_of_an_exchange_may_read_its_record_alone(bus: Exchanging) -> None:
    token, key = bus.issuer.token(), a_key()
    other = bus.issuer.token()
    await bus.exchange(other, a_key())
    complaints: list[str] = []

    async def complain(error: Exception) -> None:
        complaints.append(str(error))

    text = admission(token, key)
    client = await bus.client(text, key, error_cb=complain, inbox_prefix=inbox(record_id(token)))
    forbidden = [
        "send.order",
        "call.order",
        read_subject(record_subject(TOKEN, record_id(other))),
        "$JS.API.DIRECT.GET.KEYRING.keyring",
        "$JS.API.STREAM.INFO.RECORDS",
        record_subject(TOKEN, record_id(other)),
    ]
    for subject in forbidden:
        await client.publish(subject, b"x")
    for subject in ("bus.orders.placed", "inbox.order.>", "record.>", f"{TOKEN}.>"):
        await client.subscribe(subject)
    await client.flush()
    await until(lambda: len(complaints) >= len(forbidden) + 4, lambda: str(complaints))
    assert all("permissions violation" in one for one in complaints)


async def test_same_key_gets_the_same_certificate_again(bus: Exchanging) -> None:
    token, key = bus.issuer.token(), a_key()
    first = await bus.exchange(token, key)
    assert await bus.exchange(token, key) == first


async def test_token_is_exchanged_for_one_key_alone(
    bus: Exchanging, capsys: pytest.CaptureFixture[str]
) -> None:
    token, key, thief = bus.issuer.token(), a_key(), a_key()
    first = await bus.exchange(token, key)
    assert await bus.exchange(token, thief) == first
    assert "token.used-before" in capsys.readouterr().out
    # The certificate is of no use without the key that it is for.
    said = AdmissionText.of(SessionKey(thief, first.certificate), "order")
    await refused(bus, said.encode(), thief, name=said.client_name)


async def test_token_with_another_signature_is_the_same_token(
    bus: Exchanging, tmp_path: Path
) -> None:
    """Of one content, ECDSA has two signatures at least. Each relay knows the content."""
    (tmp_path / "curves").mkdir()
    with Issuer(tmp_path / "curves", "ES256") as curves:
        identity = Identity(curves.provider(name="curves"), "order")
        bots = bus.scene.policy.bots
        bus.scene.change(bots={**bots, "order": replace(bots["order"], identities=(identity,))})
        token, key = curves.token(), a_key()
        first = await bus.exchange(token, key)
        order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
        signed, _, text = token.rpartition(".")
        raw = base64.urlsafe_b64decode(text + "==")
        flipped = raw[:32] + (order - int.from_bytes(raw[32:], "big")).to_bytes(32, "big")
        other = f"{signed}.{base64.urlsafe_b64encode(flipped).rstrip(b'=').decode()}"
        assert other != token
        assert await bus.exchange(other, a_key()) == first


async def test_relay_that_has_not_seen_a_token_refuses_it_too(bus: Exchanging) -> None:
    token, key = bus.issuer.token(), a_key()
    first = await bus.exchange(token, key)
    seen = bus.relays.pop()
    await bus.relay()
    await seen.stop()
    assert await bus.exchange(token, a_key()) == first


async def test_of_many_at_once_one_key_wins(bus: Exchanging) -> None:
    await bus.relay()
    token = bus.issuer.token()
    keys = [a_key() for _ in range(8)]
    found = await asyncio.gather(*(bus.exchange(token, key) for key in keys))
    (record,) = set(found)
    assert record.key in {key.public.raw for key in keys}


async def test_largest_token_comes_through(bus: Exchanging) -> None:
    room = MAX_TOKEN_BYTES - len(bus.issuer.token(more=""))
    token = bus.issuer.token(more="x" * (room * 3 // 4 - 8))
    assert MAX_TOKEN_BYTES - 16 <= len(token) <= MAX_TOKEN_BYTES
    await bus.exchange(token, a_key())


async def test_rotated_key_of_the_provider_is_taken(bus: Exchanging) -> None:
    await bus.exchange(bus.issuer.token(), a_key())
    bus.issuer.rotate()
    await bus.exchange(bus.issuer.token(), a_key())


# ---- refusals ----------------------------------------------------------------------------------


async def test_refusal_has_its_reason_in_the_log(
    bus: Exchanging, capsys: pytest.CaptureFixture[str]
) -> None:
    good, key = bus.issuer.token(), a_key()
    text = admission(good, key)
    for why, given in {
        "the policy has no identities of this bot": admission(good, key, "plain"),
        "no identity of the bot fits the token of idp for order": admission(good, key, "other"),
        "the policy knows no such bot": admission(good, key, "nobody"),
        "no identity of the bot fits": admission(bus.issuer.token("clerk"), key),
        "the token's aud is not": admission(bus.issuer.token(aud="other"), key),
        "a login with a token has no consumers": admission(good, key, more=" order_abc"),
        "a token has three parts, and this one has 1": admission("", key),
        "is not base32 text": admission(good, key).replace(key.public.text, "U"),
    }.items():
        await denied(bus, capsys, why, given, key)
    await denied(bus, capsys, "the signature does not hold", text, a_key())


async def test_token_without_tls_is_refused(
    bus: Exchanging, scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever reads it on its way could use it first."""
    scene.change(bots=bus.scene.policy.bots)
    key, token = a_key(), bus.issuer.token()
    capsys.readouterr()
    in_the_clear = Exchanging(scene, bus.issuer, bus.tls, [])
    await refused(in_the_clear, admission(token, key), key, tls=None, tls_handshake_first=False)
    assert "a token came without TLS" in capsys.readouterr().out


async def test_name_of_the_client_tells_no_session_key(
    bus: Exchanging, capsys: pytest.CaptureFixture[str]
) -> None:
    key = a_key()
    capsys.readouterr()
    await refused(bus, admission(bus.issuer.token(), key), key, name=f"order {key.public.text} 1 1")
    assert "the client's name" in capsys.readouterr().out


async def test_provider_that_is_away_is_named(
    bus: Exchanging, capsys: pytest.CaptureFixture[str]
) -> None:
    away = bus.issuer.provider(issuer="https://127.0.0.1:1")
    bots = bus.scene.policy.bots
    order = replace(bots["order"], identities=(Identity(away, "order"),))
    bus.scene.change(bots={**bots, "order": order})
    key = a_key()
    why = "https://127.0.0.1:1/.well-known/openid-configuration cannot be reached"
    await denied(bus, capsys, why, admission(bus.issuer.token(), key), key)


async def test_second_provider_that_is_away_is_not_asked(bus: Exchanging) -> None:
    """The token holds with the keys of the first one, which are fresh."""
    await bus.exchange(bus.issuer.token(), a_key())
    bots = bus.scene.policy.bots
    away = bus.issuer.provider(name="away", issuer=bus.issuer.url + "/away")
    identities = (Identity(away, "order"), *bots["order"].identities)
    bus.scene.change(bots={**bots, "order": replace(bots["order"], identities=identities)})
    await bus.exchange(bus.issuer.token(), a_key())
    assert not any("/away" in path for path in bus.issuer.asked)


async def test_slow_provider_holds_up_no_other_login(bus: Exchanging) -> None:
    record = await bus.exchange(bus.issuer.token(), key := a_key())
    stuck = asyncio.Event()
    bots = bus.scene.policy.bots
    slow = bus.issuer.provider(name="slow", issuer=bus.issuer.url + "/slow")
    bus.issuer.faults["/slow/.well-known/openid-configuration"] = lambda _: hang(stuck)
    other = replace(bots["other"], identities=(Identity(slow, "other"),))
    bus.scene.change(bots={**bots, "other": other})
    waiting = [
        asyncio.create_task(refused(bus, admission(bus.issuer.token("other"), one, "other"), one))
        for one in (a_key() for _ in range(4))
    ]
    await bus.log_in(record, key)
    await asyncio.gather(*waiting)
    stuck.set()


def hang(until_set: asyncio.Event) -> None:
    import time

    while not until_set.is_set():
        time.sleep(0.02)


async def test_identity_taken_away_during_an_exchange_counts(
    bus: Exchanging, capsys: pytest.CaptureFixture[str]
) -> None:
    """The relay waits for the provider meanwhile."""
    bots = bus.scene.policy.bots
    gone = {**bots, "order": replace(bots["order"], identities=())}
    serve = bus.issuer._serve

    def change_first(handler: Any) -> None:
        bus.scene.change(bots=gone)
        serve(handler)

    bus.issuer._serve = change_first  # type: ignore[method-assign]
    key = a_key()
    why = "the policy has no identities of this bot"
    await denied(bus, capsys, why, admission(bus.issuer.token(), key), key)


async def test_identity_taken_away_during_the_record_counts(
    bus: Exchanging, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The certificate is in the record then, and the bot must not read it."""
    bots = bus.scene.policy.bots
    write = write_once

    async def change_first(*given: Any) -> bytes:
        bus.scene.change(bots={**bots, "order": replace(bots["order"], identities=())})
        return await write(*given)

    monkeypatch.setattr(errands, "write_once", change_first)
    key = a_key()
    why = "the policy has no identities of this bot"
    await denied(bus, capsys, why, admission(bus.issuer.token(), key), key)


@pytest.mark.parametrize("lost", ["unknown", "revoked", "revoked ahead", "missing"])
async def test_relay_without_a_valid_issuer_key_says_so(
    bus: Exchanging, capsys: pytest.CaptureFixture[str], lost: str
) -> None:
    raw = bus.session_issuer.public.raw
    if lost == "missing":
        bus.relays[0]._exchanges._issuer = lambda: None
    else:
        ahead_ms = now_ms() + bus.scene.policy.limits.clock_skew_ms
        times = {"revoked": 1, "revoked ahead": ahead_ms}
        keys = {raw: BotKey(raw, 0, None, times[lost])} if lost in times else {}
        bus.scene.change(session_issuers=keys)
    key = a_key()
    why = "this relay has no session-issuer key" if lost == "missing" else "not one of keys/sealbus"
    await denied(bus, capsys, why, admission(bus.issuer.token(), key), key)


async def test_exchanges_of_one_bot_are_bounded(
    bus: Exchanging, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would fill the memory of all bots. A token that was used before does not count."""
    limits = replace(bus.scene.policy.limits, connections=1, session_key_ms=10**15)
    bus.scene.change(limits=limits)
    used = bus.issuer.token()
    await bus.exchange(used, a_key())
    await bus.exchange(used, a_key())
    await bus.exchange(bus.issuer.token(), a_key())
    key = a_key()
    why = "the bot has exchanged 2 tokens within"
    await denied(bus, capsys, why, admission(bus.issuer.token(), key), key)
    await bus.exchange(bus.issuer.token("other"), a_key(), "other")


class Tokens:
    """Tokens of a bot that come to one relay, past nats-server and its deadline for a login."""

    def __init__(self, bus: Exchanging, monkeypatch: pytest.MonkeyPatch) -> None:
        limits = replace(bus.scene.policy.limits, connections=1, session_key_ms=10**15)
        bus.scene.change(limits=limits)
        monkeypatch.setattr(exchange_module, "write", self._write)
        self._bus = bus
        self.go = asyncio.Event()
        """Set when JetStream answers."""
        self.written: dict[str, bytes] = {}
        self.in_time = True
        """Whether the answers are in time."""

    async def _write(self, _: Any, subject: str, data: bytes, __: float) -> bytes:
        there = self.written.setdefault(subject, data)
        await self.go.wait()
        if not self.in_time:
            raise NotRecorded("JetStream did not record the login in time")
        return there

    async def exchange(self, token: str) -> str | None:
        """Exchange a token, or return the reason why it is refused."""
        exchange = Exchange("order", a_key().public.raw, Token.decode(token))
        exchanges = self._bus.relays[0]._exchanges
        return await exchanges.record(exchange, lambda: self._bus.scene.policy, now_ms())


async def test_exchanges_at_the_same_time_are_bounded(
    bus: Exchanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = Tokens(bus, monkeypatch)
    tasks = [asyncio.create_task(tokens.exchange(bus.issuer.token())) for _ in range(6)]
    await until(lambda: len(tokens.written) + sum(one.done() for one in tasks) == len(tasks))
    tokens.go.set()
    refused = [why for why in await asyncio.gather(*tasks) if why is not None]
    assert len(tokens.written) == 2
    assert len(refused) == 4
    assert all(why.startswith("the bot has exchanged 2 tokens within") for why in refused)


async def test_exchange_without_an_answer_in_time_counts_once(
    bus: Exchanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be recorded all the same. And its bot comes again with the same token."""
    tokens = Tokens(bus, monkeypatch)
    tokens.go.set()
    first, second, third = (bus.issuer.token() for _ in range(3))
    tokens.in_time = False
    for token in (first, first, second):
        assert "did not record the login in time" in str(await tokens.exchange(token))
    tokens.in_time = True
    assert await tokens.exchange(first) is None
    assert "has exchanged 2 tokens" in str(await tokens.exchange(third))


async def test_logins_by_one_token_are_bounded(
    bus: Exchanging, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sealbus_broker.door.exchange.MOST_LOGINS", 2)
    monkeypatch.setattr("sealbus_broker.door.errands.SESSION_MS", 10**15)
    token, key = bus.issuer.token(), a_key()
    await bus.exchange(token, key)
    await bus.exchange(token, key)
    await denied(bus, capsys, "more than 2 logins by one token", admission(token, key), key)
