"""Logins on a real nats-server: who is admitted, who is refused, and why."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import nats
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.errors import Error as NatsError
from structlog.testing import capture_logs

from sealbus.errors import Malformed
from sealbus.protocol.admission import AdmissionText
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus.protocol.limits import MAX_CONSUMERS, MAX_NAME_CHARS
from sealbus.protocol.seal import sign_connect
from sealbus.protocol.subjects import consumer_name
from sealbus_broker.door.admission import CALLOUT_SUBJECT, Admission
from sealbus_broker.door.deciding import Admitted, Denial, decide
from sealbus_broker.door.sessions import Entry
from sealbus_broker.gate.policy import BotKey, BotRule
from sealbus_broker.nats import jwt
from tests.scene import LIMITS, Door, Scene, a_policy, bot_rule, no_quiet, now_ms
from tests.waiting import PATIENCE_S, until


async def test_a_bot_with_its_key_is_admitted_by_the_public_interface(scene: Scene) -> None:
    door = await scene.bot("order")
    await door.nc.publish("send.order", b"hello")
    await door.nc.flush()
    assert door.nc.is_connected
    assert not door.complaints


def key_rule(key: BotKey) -> BotRule:
    """The order bot with one key, which needs no session key."""
    return BotRule("order", {key.raw: key}, seals_directly=True)


CHALLENGE = "challenge"


def login(key: SigningKey) -> dict[str, Any]:
    """The options of the order bot that logs in with its enrolled key."""
    said = AdmissionText("order", key.public.text)
    signature = sign_connect(key, CHALLENGE.encode(), said.encode().encode())
    return {
        "auth_token": said.encode(),
        "sig": base64.b64encode(signature).decode(),
        "name": said.client_name,
    }


async def refused(scene: Scene, name: str, **how: Any) -> str:
    """Try to connect, and return the reason for the refusal in the relay's log.

    NATS tells the bot only that it was refused.
    """
    with capture_logs() as logs, pytest.raises(nats.errors.Error) as told:
        await scene.bot(name, **how)
    assert "authorization violation" in str(told.value).lower()
    whys = [entry["why"] for entry in logs if entry["event"] == "admission.denied"]
    assert len(whys) == 1, logs
    assert all(why not in str(told.value) for why in whys)
    return str(whys[0])


async def test_a_signature_over_the_bare_challenge_opens_nothing(scene: Scene) -> None:
    def bare(key: SigningKey, challenge: bytes, _admission: bytes) -> bytes:
        return key.sign(challenge)

    assert "signature" in await refused(scene, "order", sign=bare)


async def test_a_signature_over_another_admission_text_opens_nothing(scene: Scene) -> None:
    """A man in the middle who keeps the signature cannot ask for more than the bot did."""

    def less(key: SigningKey, challenge: bytes, _admission: bytes) -> bytes:
        return sign_connect(key, challenge, f"sealbus/1 order {key.public.text} -".encode())

    asked = (consumer_name("order", "a", "b"),)
    assert "signature" in await refused(scene, "order", sign=less, consumers=asked)


async def test_an_old_answer_does_not_fit_a_new_challenge(scene: Scene) -> None:
    kept: list[bytes] = []

    def record(key: SigningKey, challenge: bytes, admission: bytes) -> bytes:
        kept.append(sign_connect(key, challenge, admission))
        return kept[0]

    await scene.bot("order", sign=record)
    assert "signature" in await refused(scene, "order", sign=record)


async def test_another_bots_name_with_ones_own_key(scene: Scene) -> None:
    assert "not one of this bot's" in await refused(scene, "order", key=scene.keys["thief"])


async def test_another_bots_name_and_key_without_its_private_half(scene: Scene) -> None:
    public, mine = scene.keys["order"].public.text, scene.keys["thief"]

    def as_thief(_key: SigningKey, challenge: bytes, admission: bytes) -> bytes:
        return sign_connect(mine, challenge, admission)

    assert "signature" in await refused(
        scene, "order", token=f"sealbus/1 order {public} -", sign=as_thief
    )


async def test_an_unknown_bot(scene: Scene) -> None:
    assert "no such bot" in await refused(scene, "ghost", key=SigningKey.generate(KeyKind.BOT))


@pytest.mark.parametrize(
    ("not_before_ms", "not_after_ms", "revoked_ms"),
    [(2**52, None, None), (0, 1, None), (0, None, 1)],
    ids=["not yet valid", "expired", "revoked"],
)
async def test_a_key_out_of_its_time(
    scene: Scene, not_before_ms: int, not_after_ms: int | None, revoked_ms: int | None
) -> None:
    raw = scene.keys["order"].public.raw
    scene.change(bots={"order": key_rule(BotKey(raw, not_before_ms, not_after_ms, revoked_ms))})
    assert "not yet valid, expired or revoked" in await refused(scene, "order")


@pytest.mark.parametrize("early_ms", [0, 1])
def test_key_is_revoked_by_a_clock_that_is_ahead(early_ms: int) -> None:
    """By `clock_skew` at most. The operator has been told that it is revoked."""
    key = SigningKey.generate(KeyKind.BOT)
    revoked_ms, skew_ms = 1_000_000, LIMITS.clock_skew_ms
    policy = a_policy(key_rule(BotKey(key.public.raw, 0, revoked_ms=revoked_ms)))
    decided = decide(login(key), CHALLENGE, policy, revoked_ms - skew_ms - early_ms)
    if not early_ms:
        assert decided == Denial("order", "the key is not yet valid, expired or revoked")
        return
    assert isinstance(decided, Admitted)
    # No session outlasts the time from which on its messages are refused.
    assert decided.expires_at_ms == revoked_ms - skew_ms


async def test_a_reloaded_policy_takes_effect_at_once(scene: Scene) -> None:
    await scene.bot("order")
    scene.change(bots={})
    assert "no such bot" in await refused(scene, "order")


@pytest.mark.parametrize(
    "consumer",
    [
        consumer_name("inventory", "orders.>", "d"),
        "order",
        "order_",
        "order_*",
        "order_>",
        "order_aaaaaaaaaaaaaaaa.>",
        "order_aaaaaaaaaaaaaaaa_inventory",
        "order_AAAAAAAAAAAAAAAA",
        "inventory_order_aaaaaaaaaaaaaaaa",
        "",
    ],
)
async def test_a_consumer_that_is_not_ones_own(scene: Scene, consumer: str) -> None:
    assert "not the bot's own" in await refused(scene, "order", consumers=(consumer,))


async def test_too_many_consumers(scene: Scene) -> None:
    name = "a-bot-with-a-name-as-long-as-can"
    assert len(name) == MAX_NAME_CHARS
    key = scene.keys["order"]
    scene.change(bots={name: bot_rule(name, key)})
    many = tuple(consumer_name(name, "orders.>", str(at)) for at in range(MAX_CONSUMERS + 1))
    await scene.bot(name, key=key, consumers=many[:-1])
    assert "33 consumers" in await refused(scene, name, key=key, consumers=many)


@pytest.mark.parametrize(
    "token",
    [
        "x",
        "sealbus/1",
        "sealbus/1 order",
        "sealbus/2 order UKEY -",
        "sealbus/1  order UKEY -",
        "sealbus/1 ../order UKEY -",
        "sealbus/1 Order UKEY -",
        "sealbus/1 order UKEY -",
        "sealbus/1 order " + "U" * 56 + " -",
        "sealbus/1 ördér UKEY -",
        "sealbus/1 order\u0000 UKEY -",
        "sealbus/1 order\nUKEY -",
        "{}",
        "9" * 3000,
    ],
)
async def test_a_token_that_is_no_admission_text(scene: Scene, token: str) -> None:
    await refused(scene, "order", token=token)


async def test_a_token_larger_than_nats_reads(scene: Scene) -> None:
    with pytest.raises((nats.errors.Error, OSError)):
        await scene.bot("order", token="sealbus/1 order - " + "A" * 100_000)
    assert (await scene.bot("order")).nc.is_connected


async def test_no_token_no_signature_or_a_password(scene: Scene) -> None:
    for options in ({}, {"token": "sealbus/1 order"}, {"user": "relay", "password": "x"}):
        with pytest.raises(
            nats.errors.Error, match=re.compile("authorization violation", re.IGNORECASE)
        ):
            await scene.client(**options)


async def test_a_signature_that_is_not_base64_or_too_short(scene: Scene) -> None:
    for answer in (b"\xc3\xa9", b"a"):
        assert "signature" in await refused(scene, "order", sign=lambda *_, given=answer: given)


async def test_the_log_says_who_came_and_who_was_refused_and_no_secret(scene: Scene) -> None:
    with capture_logs() as logs:
        await scene.bot("order")
        with pytest.raises(nats.errors.Error):
            await scene.bot("ghost\x1b[31m", key=scene.keys["order"], password="hunter2")
    assert [entry["event"] for entry in logs] == ["admission.granted", "admission.denied"]
    told = json.dumps(logs)
    assert "hunter2" not in told
    assert "\\u001b" not in told
    assert scene.keys["order"].seed_text not in told


async def test_a_connection_without_login_is_hung_up_on(scene: Scene) -> None:
    """Otherwise a stranger could hold all of a server's connections at no cost."""
    reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(scene.url).port)
    async with asyncio.timeout(PATIENCE_S):
        said = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert said.endswith(b"-ERR 'Authentication Timeout'\r\n")


async def test_a_session_ends_by_itself(scene: Scene) -> None:
    scene.change(limits=type(LIMITS)(session_ms=1_500))
    door = await scene.bot("order")
    await until(lambda: door.nc.is_closed, "the session is over")
    assert "expired" in str(door.nc.last_error)


async def test_a_session_does_not_outlive_its_key(scene: Scene) -> None:
    raw = scene.keys["order"].public.raw
    scene.change(bots={"order": key_rule(BotKey(raw, 0, not_after_ms=now_ms() + 8_000))})
    door = await scene.bot("order")
    await until(lambda: door.nc.is_closed, "the session is over")


async def test_two_relays_share_the_door(scene: Scene) -> None:
    second = await scene.login()
    beside = Admission(
        nc=second, issuer=scene.secrets.issuer, policy=lambda: scene.policy, monotonic=no_quiet()
    )
    await beside.start()
    with capture_logs() as logs:
        for _ in range(8):
            await scene.bot("order")
    assert len(logs) == 8
    await scene.admission.stop()
    assert (await scene.bot("order")).nc.is_connected


async def test_while_no_relay_answers_nobody_gets_in_and_then_they_do(scene: Scene) -> None:
    await scene.admission.stop()
    try:
        refused = await scene.bot("order", connect_timeout=3)
    except (nats.errors.Error, OSError):
        pass
    else:
        # nats-py takes a question of nats-server amid the login for the answer to its own.
        await until(lambda: refused.nc.is_closed, "nats-server ends the login")
    await scene.admission.start()
    assert (await scene.bot("order")).nc.is_connected


async def test_a_bot_cannot_reach_the_callout(scene: Scene) -> None:
    door = await scene.bot("thief")
    with capture_logs() as logs:
        await door.nc.publish(CALLOUT_SUBJECT, b"x", reply="inbox.thief.a")
        await door.refused(CALLOUT_SUBJECT.lower())
        await door.nc.publish("send.thief", b"x", reply=CALLOUT_SUBJECT)
        await door.nc.flush()
        await scene.relay.flush()
    assert not logs


class Forger:
    """Makes the request that nats-server sends to the relay.

    Nobody but the server can send it, because no login may publish on the callout's subject.
    """

    def __init__(self, scene: Scene) -> None:
        self.admission = scene.admission
        self.server = SigningKey.generate(KeyKind.BUS)
        key = scene.keys["order"]
        text = f"sealbus/1 order {key.public.text} -"
        signature = base64.b64encode(sign_connect(key, b"challenge", text.encode())).decode()
        self.claims: dict[str, Any] = {
            "aud": "nats-authorization-request",
            "exp": now_ms() // 1000 + 2,
            "sub": scene.secrets.issuer.public.text,
            "nats": {
                "type": "authorization_request",
                "version": 2,
                "server_id": {"id": self.server.public.text},
                "user_nkey": SigningKey.generate(KeyKind.BOT).public.text,
                "client_info": {
                    "nonce": "challenge",
                    "host": "here",
                    "kind": "Client",
                    "type": "nats",
                },
                "connect_opts": {
                    "auth_token": text,
                    "sig": signature,
                    "name": f"order {key.public.text}",
                },
            },
        }

    def token(self, key: SigningKey | None = None) -> str:
        """The request, signed by ``key`` or by the server that it names."""
        return jwt.sign(self.claims, key or self.server, now_ms() // 1000)

    async def answer(self, token: str | bytes) -> dict[str, Any]:
        """The claims of the relay's answer. Raises :class:`Malformed` if it gives no answer."""
        data = token.encode() if isinstance(token, str) else token
        body = (await self.admission._answer(data)).split(b".")[1]
        claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(body + b"=="))
        return claims


async def test_no_login_may_publish_the_request_of_the_server(scene: Scene) -> None:
    with capture_logs() as logs:
        await scene.relay.publish(
            CALLOUT_SUBJECT, Forger(scene).token().encode(), reply="inbox.order.x"
        )
        await until(lambda: bool(scene.complaints), "NATS complains")
    assert "permissions violation" in scene.complaints[0]
    assert not logs


async def test_a_whole_request_is_answered(scene: Scene) -> None:
    """The control of the tests below. Each of them spoils one field."""
    forger = Forger(scene)
    claims = await forger.answer(forger.token())
    assert claims["sub"] == forger.claims["nats"]["user_nkey"]
    assert claims["aud"] == forger.server.public.text
    assert claims["iss"] == scene.secrets.issuer.public.text
    assert "jwt" in claims["nats"]


async def test_a_denial_tells_the_bot_nothing(scene: Scene) -> None:
    forger = Forger(scene)
    scene.change(bots={})
    nats_claims = (await forger.answer(forger.token()))["nats"]
    assert nats_claims["error"] == "not admitted"
    assert "jwt" not in nats_claims


@pytest.mark.parametrize(
    ("kind", "protocol", "said"),
    [
        ("Client", "websocket", "Client/websocket"),
        ("Client", "mqtt", "Client/mqtt"),
        ("Leafnode", "nats", "Leafnode/nats"),
        ("Leafnode", None, "Leafnode/None"),
        ("client", "nats", "client/nats"),
        ("Client", "", "Client/"),
        (None, None, "None/None"),
        (["Client"], {"nats": "nats"}, "['Client']/{'nats': 'nats'}"),
        ("Client", "nats\x1b[31m", r"Client/nats\x1b[31m"),
        ("C" * 1000, "nats", "C" * 61 + "..."),
    ],
)
async def test_only_a_plain_client_is_admitted(
    scene: Scene, kind: object, protocol: object, said: str
) -> None:
    """The operator's nats-server may have other listeners, whatever Sealbus writes."""
    forger = Forger(scene)
    forger.claims["nats"]["client_info"] |= {"kind": kind, "type": protocol}
    with capture_logs() as logs:
        claims = (await forger.answer(forger.token()))["nats"]
    assert claims["error"] == "not admitted"
    assert "jwt" not in claims
    (entry,) = logs
    assert entry["event"] == "admission.denied"
    assert entry["why"] == f"the login came by {said}, and bots come by Client/nats alone"


@pytest.mark.parametrize("field", ["kind", "type"])
async def test_a_client_of_no_known_way_is_not_admitted(scene: Scene, field: str) -> None:
    forger = Forger(scene)
    del forger.claims["nats"]["client_info"][field]
    assert (await forger.answer(forger.token()))["nats"]["error"] == "not admitted"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("aud",), "something-else"),
        (("aud",), None),
        (("exp",), 1),
        (("exp",), "tomorrow"),
        (("exp",), None),
        (("exp",), []),
        (("exp",), float("nan")),
        (("nats", "type"), "user"),
        (("nats", "type"), None),
        pytest.param(
            ("nats", "server_id", "id"),
            SigningKey.generate(KeyKind.BUS).public.text,
            id="another server",
        ),
        (("nats", "server_id", "id"), 7),
        (("nats", "server_id"), []),
        (("nats", "client_info"), 7),
        (("nats", "connect_opts"), "x"),
        (("nats",), []),
        (("nats",), "x"),
    ],
)
async def test_a_request_with_one_thing_wrong_is_not_answered(
    scene: Scene, path: tuple[str, ...], value: object
) -> None:
    forger = Forger(scene)
    place = forger.claims
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    with pytest.raises(Malformed):
        await forger.answer(forger.token())


async def test_a_request_with_another_key_or_algorithm_is_not_answered(scene: Scene) -> None:
    forger = Forger(scene)
    head, body, signature = forger.token().split(".")
    other = forger.token(SigningKey.generate(KeyKind.BUS)).split(".")
    none = base64.urlsafe_b64encode(b'{"typ":"JWT","alg":"none"}').rstrip(b"=").decode()
    deep = base64.urlsafe_b64encode(b"[" * 40_000).decode()
    for spoilt in (
        f"{head}.{body}.{other[2]}",
        f"{head}.{other[1]}.{signature}",
        ".".join(other),
        f"{none}.{body}.{signature}",
        f"{none}.{body}.",
        f"{head}.{body}",
        f"{head}.{body}.{signature}.",
        f"{head}.{deep}.{signature}",
        f"{deep}.{body}.{signature}",
        "",
        "...",
        b"\xff\xfe.\x00.\x01",
        b"a" * (200 * 1024),
    ):
        with pytest.raises(Malformed):
            await forger.answer(spoilt)
    await forger.answer(f"{head}.{body}.{signature}")


@given(st.binary(max_size=400) | st.text(max_size=200).map(lambda text: text.encode()))
def test_whatever_arrives_is_malformed_or_answered(data: bytes) -> None:
    with pytest.raises(Malformed):
        jwt.verify_request(data, 0.0, 2.0)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(
    st.dictionaries(st.sampled_from(["auth_token", "sig", "nkey", "jwt"]), _json, max_size=4), _json
)
def test_whatever_a_client_sends_is_decided(connect: dict[str, Any], challenge: object) -> None:
    assert isinstance(decide(connect, challenge, a_policy(), 0), Denial)


@given(st.text(max_size=80), st.text(max_size=100), st.text(max_size=40))
def test_whatever_text_it_sends_is_decided(token: str, signature: str, challenge: str) -> None:
    text = f"sealbus/1 order {token}"
    policy = a_policy(bot_rule("order", SigningKey.generate(KeyKind.BOT)))
    assert isinstance(decide({"auth_token": text, "sig": signature}, challenge, policy, 0), Denial)


def while_counting(scene: Scene, monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """``act`` happens while the relay waits for the number of a bot's sessions."""
    sessions = scene.admission._sessions
    count = sessions.admit

    async def admit(bot: str, server: str, number: int, most: int) -> Entry:
        entry = await count(bot, server, number, most)
        # A later millisecond than that of the first decision.
        await asyncio.sleep(0.002)
        act()
        return entry

    monkeypatch.setattr(sessions, "admit", admit)


async def test_bot_removed_during_its_login_does_not_come_in(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    while_counting(scene, monkeypatch, lambda: scene.change(bots={}))
    assert "no such bot" in await refused(scene, "order")


async def test_key_revoked_during_its_login_opens_nothing(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is revoked as of now, so the time of the first decision would still be before that."""
    raw = scene.keys["order"].public.raw

    def revoke() -> None:
        scene.change(bots={"order": key_rule(BotKey(raw, 0, None, now_ms()))})

    while_counting(scene, monkeypatch, revoke)
    assert "revoked" in await refused(scene, "order")


async def test_rights_changed_during_a_login_are_those_of_the_session(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def regrant() -> None:
        key = scene.keys["inventory"]
        scene.change(bots={"inventory": bot_rule("inventory", key, subscribe=("news.>",))})

    while_counting(scene, monkeypatch, regrant)
    door = await scene.bot("inventory")
    await door.nc.subscribe("bus.news.today")
    await door.nc.subscribe("bus.orders.placed")
    await door.refused('subscription to "bus.orders.placed"')
    assert len(door.complaints) == 1


async def test_login_that_was_not_counted_stays_denied(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A changed policy does not make up for the number of sessions."""

    def fail() -> None:
        scene.change(limits=LIMITS)
        raise NatsError("away")

    while_counting(scene, monkeypatch, fail)
    assert "does not say how many sessions" in await refused(scene, "order")


async def test_many_bots_at_once(scene: Scene) -> None:
    doors: list[Door] = await asyncio.gather(*(scene.bot("order") for _ in range(50)))
    assert all(door.nc.is_connected for door in doors)


async def test_the_relay_itself_is_not_asked_about(scene: Scene) -> None:
    with capture_logs() as logs:
        client: Client = await scene.login()
    assert client.is_connected
    assert not logs
