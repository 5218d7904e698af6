"""A running bus with the policy of the gate's tests, seen from outside.

:class:`Ground` records the messages that the bus stored, and the messages that it refused, with the
reason.

The attacker has raw sockets (:class:`examples.robbery.frames.RawSession`, as in the demo). None of
our clients is between the attack and the bus.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any, Self

from nats.aio.msg import Msg

from examples.robbery.frames import Frame as WireFrame
from examples.robbery.frames import RawSession, pub
from sealbus.errors import Malformed
from sealbus.nats.client import HardenedClient
from sealbus.protocol.admission import AdmissionText
from sealbus.protocol.codec import unpack_json
from sealbus.protocol.delivery import split_delivery
from sealbus.protocol.envelope import Envelope
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus.protocol.seal import Verifier, sign_connect
from sealbus.protocol.stamp import Verdict, open_stamp
from sealbus.protocol.subjects import CLOSED
from sealbus_broker.gate.policy import DeliveryClass
from sealbus_broker.relay.secrets import BusSecrets
from sealbus_broker.relay.services.consumers import Subscriptions
from sealbus_broker.relay.store.quarantine import RECORD_HEADER
from tests.asking import answered
from tests.attacks.certificates import certified_login
from tests.attacks.connections import BOUND_TO, VAULT, VAULT_KEY
from tests.attacks.corpus import LESSER, NOTHING, Said, Vain
from tests.attacks.line import HOST, Line, order_bot, overheard, server_that_says, tapped
from tests.e2e.shop import Shop
from tests.gate.bus import ACCEPTED, Step
from tests.gate.world import (
    BORN,
    BUS_KEY,
    KEYS,
    NOW,
    POLICY,
    POLICY_DOCUMENT,
    digest,
    envelope,
    shipment,
    told_at,
)
from tests.scene import now_ms
from tests.waiting import PATIENCE_S, until

VERDICT_S = 30.0
"""How long a verdict may take. A machine that is not busy needs milliseconds.

An attack without a verdict does not count as stopped.
"""
NO_VERDICT = "no verdict was seen"
_WAY = {DeliveryClass.STREAM: "send", DeliveryClass.LIVE: "call"}


class Ground(Shop):
    """The bus to be attacked."""

    def __init__(self, folder: Path, without: str | None = None) -> None:
        """``without``: a check of the gate that the relay does not make."""
        super().__init__(folder, make_folder)
        if without is not None:
            self.relay_module = ("tests.attacks.broken_relay", without)
        self.outcomes: dict[bytes, list[str]] = defaultdict(list)
        """All outcomes of an envelope, or of any other bytes that were sent, by their digest."""
        self.in_order: set[bytes] = set()
        """The digests of the envelopes that must be accepted."""
        self._observer: HardenedClient | None = None
        self._sessions: dict[str, RawSession] = {}
        self._line: Line | None = None
        self._puller: tuple[RawSession, str] | None = None
        self._answers: dict[str, Any] = {}
        """The relay's answers, by the nonce of the request."""
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        await self.start_relay()
        self._observer = await self.nats()
        await self._observer.subscribe("quarantine.>", cb=self._on_refused)
        await self._observer.subscribe("bus.>", cb=self._on_delivered)
        await self._observer.flush()
        # The nonces of the messages here are born a little before now, and none may be older than
        # the ledger.
        up_at = now_ms()
        await until(lambda: now_ms() > up_at + NOW - BORN, "the ledger is older than the nonces")
        return self

    async def __aexit__(self, *about: object) -> None:
        await self._open.aclose()
        for session in self._sessions.values():
            await session.close()
        if self._observer is not None:
            await self._observer.close()
        await super().__aexit__(*about)

    async def _on_refused(self, msg: Msg) -> None:
        record: dict[str, Any] = json.loads((msg.headers or {})[RECORD_HEADER])
        if record["payloads"] is None:  # else other payloads of the envelope are accepted
            self.outcomes[digest(msg.data)].append(record["reason"])

    async def _on_delivered(self, msg: Msg) -> None:
        # the relay asks whether anybody listens, or notes a refusal
        if not msg.data or _is_note(msg):
            return
        try:
            envelope, _ = split_delivery(msg.data)
        except Malformed:  # bytes that no relay has stamped
            envelope = msg.data
        # A payload that was refused is withheld, and the digest is the same.
        name = digest(envelope)
        if msg.subject.startswith("bus.reply."):
            opened = Envelope.decode_shown(envelope)
            if opened.header.bot == "sealbus":  # an answer of the bus
                (answer,) = opened.payloads
                assert answer is not None
                self.in_order.add(name)
                self._answers[opened.header.subject.rpartition(".")[2]] = unpack_json(answer)
        self.outcomes[name].append(ACCEPTED)

    @property
    def strange(self) -> int:
        """How many different messages were delivered although the bus should have refused them."""
        if self._line is not None:  # the messages of the honest bot itself
            self.in_order |= {digest(envelope) for envelope in self._line.tap.said}
        return sum(
            ACCEPTED in became and name not in self.in_order
            for name, became in self.outcomes.items()
        )

    async def streams(self) -> set[str]:
        """The names of all streams. A stream that an attacker made would be among them."""
        assert self._observer is not None
        answer = json.loads((await answered(self._observer, "$JS.API.STREAM.NAMES")).data)
        return set(answer["streams"] or [])

    async def session(self, bot: str) -> RawSession:
        """A session of one of the policy's bots, by its own key.

        nats-server ends a session that has not answered it for four seconds, such as one that
        nobody used on a busy machine.
        """
        session = self._sessions.get(bot)
        if session is None or not await session.say(b""):
            if session is not None:
                await session.close()
            session, admitted = await self.knock(lambda challenge: _login(bot, challenge))
            assert admitted, f"{bot} was not admitted"
            self._sessions[bot] = session
        return session

    async def knock(
        self, make: Callable[[bytes], tuple[str | None, bytes | str | None]]
    ) -> tuple[RawSession, bool]:
        """Try to log in. Returns the session, and whether it was admitted."""
        session = await RawSession.open(HOST, self.port)
        with told_at(now_ms(), os.urandom(8)):
            text, signature = make(session.challenge.encode())
        encoded = (
            base64.b64encode(signature).decode() if isinstance(signature, bytes) else signature
        )
        return session, await session.login(text, encoded)

    async def take(self, steps: Sequence[Step]) -> list[str]:
        """Send the messages of the steps, and return their outcomes.

        Steps of one session follow each other without a pause.
        """
        became: list[str] = []
        for session, together in groupby(steps, lambda step: step.session):
            group = list(together)
            self.in_order |= {digest(step.data) for step in group if step.expect == ACCEPTED}
            frames = b"".join(pub(f"{_WAY[step.delivery]}.{session}", step.data) for step in group)
            became += await self._sent(session, frames, [step.data for step in group])
        return became

    async def take_alone(self, step: Step) -> list[str]:
        """Send the message of one step, wait until the relay has finished with it, and return its
        outcome.

        The relay removes a message from INGRESS after it charged the bot. It delivers the message
        before that.
        """
        became = await self.take([step])

        async def is_done() -> bool:
            return await self.stored("INGRESS") == 0

        await until(is_done, "the relay has acknowledged it")
        return became

    async def sent(self, bot: str, frame: bytes, body: bytes) -> str:
        """Send a frame whose body must be judged, and return the outcome of the body."""
        return (await self._sent(bot, frame, [body]))[0]

    async def _sent(self, bot: str, frames: bytes, bodies: Sequence[bytes]) -> list[str]:
        session = await self.session(bot)
        names = [digest(body) for body in bodies]
        before = {name: len(self.outcomes[name]) for name in names}
        await session.say(frames)
        due = {name: before[name] + names.count(name) for name in names}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(VERDICT_S):
                await until(
                    lambda: all(len(self.outcomes[name]) >= count for name, count in due.items())
                )
        became = {name: iter(self.outcomes[name][at:]) for name, at in before.items()}
        return [next(became[name], NO_VERDICT) for name in names]

    async def line(self) -> Line:
        """The line of the order bot, which has a session."""
        if self._line is None:
            self._line = await self._open.enter_async_context(tapped(self.port))
        return self._line

    async def ship(self) -> None:
        """Send the order bot a genuine shipment, and wait until its handler has it."""
        line = await self.line()
        with told_at(now_ms(), os.urandom(8)):
            step = Step(shipment(), session="shipping")
        assert await self.take([step]) == [ACCEPTED]
        # Its nonce, because the handler may get copies of an earlier one meanwhile.
        nonce = Envelope.decode(step.data).header.nonce.hex()
        await until(lambda: nonce in line.handled, "the shipment is handled")

    async def greeted(self, says: bytes) -> str:
        """Connect a bot whose server first says ``says``, and return the bot's complaint.

        Afterwards the bot is connected.
        """
        async with server_that_says(says, self.port) as port:
            with overheard("no session with the bus") as said:
                bot = order_bot(port)
                await bot._session.open()
                await bot._session.close(flush=False)
        return said[0].replace(f"nats://{HOST}:{port}", "the server") if said else ACCEPTED

    async def pulled(self, body: bytes, times: int) -> tuple[str, int]:
        """Let a bot ask for its stored messages, to be sent to another bot.

        Returns JetStream's refusal, and the number of messages that came.
        """
        asker, consumer = await self._asker()
        victim = await self.session("order")
        address = f"inbox.order.{os.urandom(8).hex()}"
        subscription = f"SUB {address} 9\r\n".encode()
        await victim.say(subscription)
        ask = pub(f"$JS.API.CONSUMER.MSG.NEXT.ACCEPTED.{consumer}", body, address)
        async with asyncio.timeout(PATIENCE_S):
            await asker.say(ask * times)
            while not (got := [frame for frame in victim.received if frame.subject == address]):
                await victim.say(b"")
        await victim.say(b"UNSUB 9\r\n")
        return status(got[0]), sum(bool(frame.payload) for frame in got)

    async def _asker(self) -> tuple[RawSession, str]:
        """The rival, with the right to fetch the messages of its durable subscription."""
        if self._puller is None or not await self._puller[0].say(b""):
            assert self._observer is not None
            made = Subscriptions(self._observer)
            consumer = await made.make("rival", "stock.reserved", "d", "all", most=1)
            session, admitted = await self.knock(
                lambda challenge: _login("rival", challenge, consumer)
            )
            self._open.push_async_callback(session.close)
            assert admitted
            self._puller = session, consumer
        return self._puller

    async def in_vain(self, vain: Vain) -> str:
        """Send frames that must have no effect, and return their effects.

        Two honest messages follow them, one after the other, and must pass. Messages that are
        judged with the first are settled when the second has passed.
        """
        asker, consumer = await self._asker()
        streams, body = await self.streams(), new_body()
        await asker.say(vain.make(body, LESSER, consumer))
        behind = []
        for _ in range(2):
            with told_at(now_ms(), os.urandom(8)):
                honest = Step(envelope(bot=LESSER), session=LESSER)
            behind += await self.take([honest])
        came = [
            *self.outcomes.get(digest(body), ()),
            *(frame.subject for frame in asker.received),
        ]
        if behind != [ACCEPTED, ACCEPTED] or await self.streams() != streams:
            came.append(f"honest trade became {behind}")
        return ", ".join(came) or NOTHING

    async def asked(self, steps: Sequence[Step]) -> str:
        """Send the relay a valid request. Returns the error of its answer, or :data:`ACCEPTED`."""
        (step,) = steps
        header = Envelope.decode(step.data).header
        assert await self.take([step]) == [ACCEPTED]
        await until(lambda: header.nonce.hex() in self._answers, "the relay answers")
        answer = self._answers[header.nonce.hex()]
        return str(answer.get("message", ACCEPTED)) if answer.get("error") else ACCEPTED

    async def ended(self, bot: str, frame: bytes) -> str:
        """Send a frame after which NATS must end the connection, in a session of its own.

        Returns the error of the server.
        """
        session, admitted = await self.knock(lambda challenge: _login(bot, challenge))
        assert admitted
        still_there = await session.say(frame)
        await session.close()
        return ACCEPTED if still_there else session.errors[0].strip("'")

    async def refused(self, bot: str, frame: bytes) -> str:
        """Send a frame that NATS must refuse, and return the error of the server."""
        session = await self.session(bot)
        before = len(session.errors)
        await session.say(frame)
        await until(lambda: len(session.errors) > before, "NATS refuses the frame")
        return session.errors[before].strip("'")


def _is_note(msg: Msg) -> bool:
    """Whether the message closes the id of a refused message: it delivers nothing."""
    if msg.subject != f"bus.{CLOSED}":
        return False
    return (
        open_stamp(msg.data, frozenset({BUS_KEY.public.raw}), Verifier()).verdict is Verdict.DROPPED
    )


def _login(bot: str, challenge: bytes, *consumers: str) -> Said:
    if POLICY.bots[bot].seals_directly:
        said = AdmissionText(bot, KEYS[bot].public.text, consumers)
        return said.encode(), sign_connect(KEYS[bot], challenge, said.encode().encode())
    return certified_login(challenge, bot=bot, consumers=consumers)


def status(frame: WireFrame) -> str:
    """The status that nats-server sends in a message without a body."""
    return frame.raw.split(b"\r\n")[1].removeprefix(b"NATS/1.0 ").decode("utf-8", "replace")


def new_body() -> bytes:
    """Bytes that are not an envelope, and that nobody has sent before."""
    return b"\x00" + os.urandom(32)


# ---- the policy of the gate's tests, as files ----------------------------------------------------


def make_folder(folder: Path) -> None:
    """Write the bus's folder, with the keys of the gate's tests.

    Times count from now instead of ``NOW``.
    """
    shift = now_ms() - NOW
    document = POLICY_DOCUMENT
    policy: dict[str, Any] = {
        "version": 1,
        "bus": document["bus"],
        "limits": dict(_limit(name, value) for name, value in document["limits"].items()),
        "on_violation": {"default": "quarantine"},  # a dropped message would leave no trace
        "bots": {
            bot: {name: value for name, value in rule.items() if name != "keys"}
            for bot, rule in document["bots"].items()
        },
        "subjects": {pattern: _subject(rule) for pattern, rule in document["subjects"].items()},
    }
    vault = {"certificate": BOUND_TO, "seals_directly": True}
    policy["bots"] = dict(policy["bots"]) | {VAULT: vault}
    (folder / "policy.yaml").write_text(json.dumps(policy, indent=1))
    (folder / "schemas").mkdir()
    for name, schema in document["schemas"].items():
        (folder / "schemas" / f"{name}.json").write_text(json.dumps(schema))
    (folder / "keys").mkdir()
    for bot, rule in document["bots"].items():
        entries = [_key(entry, shift) for entry in rule["keys"]]
        (folder / "keys" / f"{bot}.yaml").write_text(json.dumps({"bot": bot, "keys": entries}))
    key = {"key": VAULT_KEY.public.text, "not_before": _time(0)}
    (folder / "keys" / f"{VAULT}.yaml").write_text(json.dumps({"bot": VAULT, "keys": [key]}))
    secrets = BusSecrets(
        BUS_KEY, SigningKey.generate(KeyKind.ISSUER), SigningKey.generate(KeyKind.BOT)
    )
    secrets.write(folder / ".sealbus" / "relay.toml")


def _limit(name: str, value: int) -> tuple[str, object]:
    if name.endswith("_ms"):
        return name.removesuffix("_ms"), f"{value}ms"
    return name, f"{value}B" if name.endswith("_bytes") else value


def _key(entry: dict[str, Any], shift: int) -> dict[str, str]:
    times = {
        name.removesuffix("_ms"): _time(at + shift if at else 0)
        for name, at in entry.items()
        if name != "key"
    }
    return {"key": KEYS[entry["key"]].public.text, **times}


def _time(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms // 1000, UTC):%FT%TZ}"


def _subject(rule: dict[str, Any]) -> dict[str, Any]:
    written: dict[str, Any] = {"delivery": rule["delivery"], "schema": rule["schemas"]}
    if "reply" in rule:
        written["reply"] = rule["reply"]
    if "max_bytes" in rule:
        written["max_bytes"] = f"{rule['max_bytes']}B"
    if rate := rule.get("rate"):
        written["rate"] = f"{rate['per_second']}/s burst {rate['burst']}"
    if cause := rule.get("cause"):
        within = f"{cause['within_ms']}ms"
        written["cause"] = {
            **{key: cause[key] for key in ("subject", "match", "once")},
            "within": within,
        }
    return written
