"""Logins with session keys: the session, its length, and its place in the list."""

from __future__ import annotations

import base64
from dataclasses import replace

import nats.errors
import pytest
from nats.aio.client import Client
from structlog.testing import capture_logs

from sealbus.protocol.admission import AdmissionText
from sealbus.protocol.certificate import SessionKey
from sealbus.protocol.seal import sign_connect
from sealbus_broker.door.deciding import CLIENT_CHARS, Denial, decide
from sealbus_broker.gate.policy import BotKey, BotRule
from sealbus_broker.nats.connections import LiveSession, list_sessions
from sealbus_broker.nats.session_name import Certified
from tests.door.test_admission import refused
from tests.scene import Scene, now_ms
from tests.waiting import until


@pytest.fixture
def strict(scene: Scene) -> Scene:
    """A bus whose order bot needs a session key."""
    raw = scene.keys["order"].public.raw
    scene.change(bots={"order": BotRule("order", {raw: BotKey(raw, 0)})})
    return scene


def a_key(scene: Scene, life_ms: int = 600_000) -> SessionKey:
    return SessionKey.make(
        scene.keys["order"], bus="shop", bot="order", now_ms=now_ms(), life_ms=life_ms
    )


async def log_in(scene: Scene, key: SessionKey, name: str | None = None) -> Client:
    """Log in as the order bot. ``name`` is the client's name, if not the right one."""
    said = AdmissionText.of(key, "order")

    def answer(challenge: str) -> bytes:
        signed = sign_connect(key.key, challenge.encode(), said.encode().encode())
        return base64.b64encode(signed)

    return await scene.client(
        token=said.encode(), signature_cb=answer, name=said.client_name if name is None else name
    )


async def the_session(scene: Scene) -> LiveSession:
    """The one session that the server lists."""
    (session,) = (await list_sessions(scene.relay)).sessions
    return session


async def test_list_has_the_enrolled_key_the_session_key_and_its_times(strict: Scene) -> None:
    key = a_key(strict, 400_000)
    await log_in(strict, key)
    session = await the_session(strict)
    assert (session.bot, session.key) == ("order", strict.keys["order"].public.text)
    begin = int.from_bytes(key.certificate[96:102], "big")
    assert session.certified == Certified(key.key.public.text, begin, 400_000)


async def test_list_tells_no_session_key_of_a_bot_that_has_none(scene: Scene) -> None:
    await scene.bot("order")
    session = await the_session(scene)
    assert (session.key, session.certified) == (scene.keys["order"].public.text, None)


@pytest.mark.parametrize("lie", ["", "order", "order {0} {0} 0 1", "order {1}", "thief {0}", "x"])
async def test_bot_without_session_key_has_one_name(scene: Scene, lie: str) -> None:
    """An operator believes the list of sessions."""
    keys = [scene.keys[name].public.text for name in ("order", "thief")]
    name = lie.format(*keys)
    assert "name does not say" in await refused(scene, "order", called=name)
    await scene.bot("order")
    assert (await the_session(scene)).told["name"] == f"order {keys[0]}"


@pytest.mark.parametrize("field", ["lang", "version"])
async def test_client_does_not_say_much_of_itself(scene: Scene, field: str) -> None:
    """A relay takes lists of thousands of sessions."""
    key = scene.keys["order"]
    said = AdmissionText("order", key.public.text)
    for length in (CLIENT_CHARS, CLIENT_CHARS + 1):
        signature = sign_connect(key, b"challenge", said.encode().encode())
        connect = {
            "auth_token": said.encode(),
            "sig": base64.b64encode(signature).decode(),
            "name": said.client_name,
            field: "x" * length,
        }
        decided = decide(connect, "challenge", scene.policy, now_ms())
        assert isinstance(decided, Denial) is (length > CLIENT_CHARS)


@pytest.mark.parametrize(
    "lie", ["enrolled key", "session key", "begin", "life", "bot", "nothing", "a word more"]
)
async def test_client_under_another_name_is_not_admitted(strict: Scene, lie: str) -> None:
    """An operator believes the list of sessions."""
    key = a_key(strict)
    words = AdmissionText.of(key, "order").client_name.split(" ")
    name = {
        "enrolled key": " ".join([words[0], strict.keys["thief"].public.text, *words[2:]]),
        "session key": " ".join([*words[:2], strict.keys["thief"].public.text, *words[3:]]),
        "begin": " ".join([*words[:3], str(int(words[3]) + 1), words[4]]),
        "life": " ".join([*words[:4], "1"]),
        "bot": " ".join(["inventory", *words[1:]]),
        "nothing": "order",
        "a word more": " ".join([*words, "x"]),
    }[lie]
    with pytest.raises(nats.errors.Error, match=r"(?i)authorization violation"):
        await log_in(strict, key, name)
    assert (await log_in(strict, key)).is_connected


async def test_session_does_not_outlive_its_certificate(strict: Scene) -> None:
    began = now_ms()
    client = await log_in(strict, a_key(strict, 2_500))
    assert client.is_connected
    await until(lambda: not client.is_connected, "the session has ended")
    # Not by the policy's limit of minutes.
    assert now_ms() - began < strict.policy.limits.session_ms / 4


async def test_certificate_that_ends_by_the_policy_ends_the_session(strict: Scene) -> None:
    """The policy allows less than the certificate says."""
    limits = replace(strict.policy.limits, session_key_ms=2_500)
    strict.change(limits=limits)
    began = now_ms()
    client = await log_in(strict, a_key(strict))
    await until(lambda: not client.is_connected, "the session has ended")
    assert now_ms() - began < strict.policy.limits.session_ms / 4


@pytest.mark.parametrize(("behind_ms", "comes_in"), [(1_000, True), (60_000, False)])
async def test_clock_of_a_bot_may_be_behind_by_the_skew(
    strict: Scene, behind_ms: int, comes_in: bool
) -> None:
    """By more than the life of its certificate, and not by more than `clock_skew` beyond that."""
    strict.change(limits=replace(strict.policy.limits, clock_skew_ms=30_000))
    enrolled, life_ms = strict.keys["order"], 300_000
    begin_ms = now_ms() - life_ms - behind_ms
    key = SessionKey.make(enrolled, bus="shop", bot="order", now_ms=begin_ms, life_ms=life_ms)
    if comes_in:
        assert (await log_in(strict, key)).is_connected
        return
    with (
        capture_logs() as logs,
        pytest.raises(nats.errors.Error, match=r"(?i)authorization violation"),
    ):
        await log_in(strict, key)
    assert "or its bot's clock is behind" in logs[0]["why"]


async def test_enrolled_key_alone_is_not_admitted(strict: Scene) -> None:
    assert "no session certificate" in await refused(strict, "order")
