"""The attacks of the greedy bot. Each takes one resource, as fast as it can, for its time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from examples.robbery.frames import RawSession, pub
from sealbus import Bot, SealbusError
from sealbus.grants import GRANTS
from sealbus.own import PARK, PROGRESS, SUBSCRIBE
from sealbus.protocol.codec import pack_bundle, pack_json
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus.protocol.limits import MAX_BUNDLE, MAX_PAYLOADS, MAX_PULL
from sealbus.protocol.subjects import consumer_name
from sealbus_broker.nats.config import MAX_BOT_PAYLOAD_BYTES
from tests.faults.greedy.attacker import Field
from tests.faults.greedy.attacking import (
    LARGEST,
    MANY,
    MANY_VALUES,
    Attacks,
    flood,
    in_turn,
    sealed,
)
from tests.faults.greedy.floods import FLOODS
from tests.faults.greedy.stage import HONEST
from tests.gate.parts import Parts
from tests.policy.test_schema_work import brackets

SILENT: Final = 62
"""Sessions that do not read, beside the two that send. A bot may have 64."""

ATTACKS: Final = Attacks(FLOODS)
"""All attacks by name."""


# ---- the work for a message ----------------------------------------------------------------------


@ATTACKS.named("bytes")
async def large_payloads(field: Field) -> None:
    """Payloads of the size of the largest envelope: eight times as much as the subject allows."""
    await flood(field, sealed(field, "goods.a", pack_json("x" * 520_000), 2))


@ATTACKS.named("values")
async def many_values(field: Field) -> None:
    """Live messages that each cost a relay milliseconds."""
    await flood(field, sealed(field, "flash.a", MANY_VALUES, 31, live=True))


@ATTACKS.named("values-stored")
async def many_values_stored(field: Field) -> None:
    """The same as stored messages."""
    await flood(field, sealed(field, "goods.a", MANY_VALUES, 31))


@ATTACKS.named("bundles")
async def large_bundles(field: Field) -> None:
    """One envelope more in each bundle than allowed. All of them are valid."""

    def make() -> bytes:
        envelopes = field.seal("goods.a", b"\xc0", MAX_BUNDLE + 1)
        field.counts["NATS messages"] += 1
        return pub(f"send.{field.credentials.bot}", pack_bundle(envelopes))

    await flood(field, make)


@ATTACKS.named("bursts")
async def large_bursts(field: Field) -> None:
    """One message more in each envelope than allowed. A relay looks at no seal of them."""

    def make() -> bytes:
        frames = []
        for data in field.seal("goods.a", b"\xc0", 16):
            parts = Parts.of(data)
            parts.payloads *= MAX_PAYLOADS + 1
            frames.append(pub(f"send.{field.credentials.bot}", parts.data))
        field.counts["NATS messages"] += len(frames)
        return b"".join(frames)

    await flood(field, make)


@ATTACKS.named("parents")
async def junk_parents(field: Field) -> None:
    """Parents where the subject takes none, and invalid ones where it does."""
    kinds = [
        sealed(field, "goods.a", b"\xc0", 2, parent=os.urandom(200_000)),
        sealed(field, "caused.a", b"\xc0", MANY, parent=os.urandom(1_500)),
    ]
    await flood(field, in_turn(kinds))


@ATTACKS.named("schema")
async def costly_schema(field: Field) -> None:
    """Payloads that take the validator longest: 50 ms for each, with 16,000 values."""
    await flood(field, sealed(field, "costly.a", pack_json(brackets(1900)), 7))


# ---- rates ---------------------------------------------------------------------------------------


@ATTACKS.named("rate")
async def above_the_rate(field: Field) -> None:
    """Messages at many times the subject's rate."""
    await flood(field, sealed(field, "rated.a", b"\xc0", MANY))


@ATTACKS.named("copies")
async def copies(field: Field) -> None:
    """The same hundred messages again and again."""
    envelopes = field.seal("rated.a", b"\xc0", 100)
    await flood(field, lambda: field.frames(envelopes))


@ATTACKS.named("services")
async def services(field: Field) -> None:
    """All requests that any bot may make to the bus."""
    own = consumer_name(field.credentials.bot, "goods.*", "own")
    asked: dict[str, Any] = {
        GRANTS: {},
        SUBSCRIBE: {"pattern": "goods.*", "durable": "own", "from": "new"},
        PARK: {"consumer": own, "sequence": 1, "attempt": 1, "error": "Trouble"},
    }
    await flood(
        field,
        in_turn(
            [
                sealed(field, subject, pack_json(what), 64, live=True)
                for subject, what in asked.items()
            ]
        ),
    )


@ATTACKS.named("notes")
async def notes_about_one_delivery(field: Field) -> None:
    """Notes of progress with many times of storing, about a delivery that it holds."""
    async with Bot(field.credentials) as bot, bot.messages("goods.a", durable="own") as messages:
        await bot.publish("goods.a", None)
        await anext(messages)
        ask = {"consumer": consumer_name(field.credentials.bot, "goods.a", "own"), "given_back": 0}

        async def note(sequence: int, stored: int) -> bool:
            try:
                wanted = {**ask, "sequence": sequence, "stored": stored, "done": "1"}
                await bot.request(PROGRESS, wanted, timeout=30.0)
            except SealbusError as error:
                field.counts[f"refused: {type(error).__name__}"] += 1
                return False
            field.counts["noted"] += 1
            return True

        sequence = 1
        while not await note(sequence, 0):
            sequence += 1
        field.begin()
        stored = 0
        while field.goes_on:
            await asyncio.gather(*(note(sequence, stored + at) for at in range(100)))
            stored += 100


@ATTACKS.named("live")
async def live_flood(field: Field) -> None:
    """As many small live messages as possible."""
    await flood(field, sealed(field, "flash.a", b"\xc0", MANY, live=True), sessions=2)


# ---- stored messages -----------------------------------------------------------------------------


@ATTACKS.named("ingress")
async def ingress_by_bytes(field: Field) -> None:
    """The largest messages that NATS takes, with meaningless bytes."""
    await flood(field, _junk(field, MAX_BOT_PAYLOAD_BYTES - 64))


@ATTACKS.named("ingress-bundles")
async def ingress_by_envelopes(field: Field) -> None:
    """As many valid envelopes in each message as allowed."""
    await flood(field, sealed(field, "goods.a", b"\xc0", MANY), sessions=2)


@ATTACKS.named("accepted")
async def accepted(field: Field) -> None:
    """Valid payloads of the largest size."""
    await flood(field, sealed(field, "goods.a", LARGEST, 14))


@ATTACKS.named("quarantine")
async def quarantine(field: Field) -> None:
    """Messages that are refused and kept."""
    await flood(field, sealed(field, "nowhere.a", LARGEST, 7))


def _junk(field: Field, size: int) -> Callable[[], bytes]:
    def make() -> bytes:
        field.counts["NATS messages"] += 1
        field.counts["bytes"] += size
        return pub(f"send.{field.credentials.bot}", os.urandom(16) + bytes(size - 16))

    return make


# ---- sessions ------------------------------------------------------------------------------------


@ATTACKS.named("sessions")
async def sessions(field: Field) -> None:
    """As many sessions as possible. They are held, and more are asked for all the time."""
    held: list[RawSession] = []
    field.begin()

    async def one() -> None:
        while field.goes_on:
            field.counts["logins"] += 1
            with contextlib.suppress(OSError, ValueError):
                if (session := await field.try_login()) is not None:
                    held.append(session)

    await asyncio.gather(*(one() for _ in range(8)))
    field.counts["admitted"] = len(held)
    for session in held:
        await session.close()


@ATTACKS.named("logins")
async def logins(field: Field) -> None:
    """Logins with a valid key, each followed by a disconnect."""
    field.begin()

    async def one() -> None:
        while field.goes_on:
            field.counts["logins"] += 1
            with contextlib.suppress(OSError, ValueError):
                if (session := await field.try_login()) is not None:
                    await session.close()

    await asyncio.gather(*(one() for _ in range(8)))


@ATTACKS.named("strangers")
async def strangers(field: Field) -> None:
    """Refused logins of a stranger without a key of this bus."""
    stranger = replace(field.credentials, key=SigningKey.generate(KeyKind.BOT))
    key = stranger.new_session_key(time.time_ns() // 1_000_000)
    field.begin()

    async def one() -> None:
        while field.goes_on:
            field.counts["logins"] += 1
            with contextlib.suppress(OSError, ValueError):
                await field.try_login(key)

    await asyncio.gather(*(one() for _ in range(16)))


@ATTACKS.named("silent")
async def silent_sessions(field: Field) -> None:
    """Sessions that subscribe to many messages and do not read, while the bot sends many."""
    quiet: list[RawSession] = []

    async def fall_silent() -> None:
        session = await field.login()
        await session.say(b"SUB bus.flash.> 1\r\n")
        quiet.append(session)  # from now on frames stay in the socket, and then at the server

    for _ in range(SILENT // 2):
        await asyncio.gather(fall_silent(), fall_silent())

    begun = asyncio.Event()

    async def come_back() -> None:
        """Replace the sessions that were cut off."""
        await begun.wait()
        while field.goes_on:
            session = quiet.pop(0)
            if not session.stands():
                field.counts["cut off"] += 1
                await session.close()
                await fall_silent()
            else:
                quiet.append(session)
            await asyncio.sleep(0.02)

    make = sealed(field, "flash.a", LARGEST, 7, live=True)

    def say_much() -> bytes:
        begun.set()
        return make()

    await asyncio.gather(flood(field, say_much), come_back())
    for session in quiet:
        await session.close()


@ATTACKS.named("subscriptions-of-a-session")
async def many_subscriptions(field: Field) -> None:
    """As many subscriptions in each session as allowed, and more."""
    held = [await field.login() for _ in range(SILENT)]
    field.begin()
    asks = b"".join(b"SUB bus.flash.a%d %d\r\n" % (number, number) for number in range(1, 1_200))
    while field.goes_on:
        for at, session in enumerate(held):
            if field.goes_on:
                held[at] = await field.say(session, asks)
                field.counts["subscriptions"] += 1_199
    for session in held:
        await session.close()


# ---- log lines, subscriptions and answers --------------------------------------------------------


@ATTACKS.named("violations")
async def violations(field: Field) -> None:
    """Violations of each kind that a bot can make."""
    other = SigningKey.generate(KeyKind.BOT)

    def forged() -> list[bytes]:
        return field.seal("goods.a", b"\xc0", 8, by=other)

    def broken() -> list[bytes]:
        return [
            envelope[:-1] + bytes([envelope[-1] ^ 1])
            for envelope in field.seal("goods.a", b"\xc0", 8)
        ]

    makes: Sequence[Callable[[], list[bytes]]] = [
        lambda: [os.urandom(200) for _ in range(8)],
        forged,
        broken,
        lambda: field.seal("goods.a", b"\xc0", 8, bus="other"),
        lambda: field.seal("goods.a", b"\xc0", 8, bot=HONEST[0]),
        lambda: field.seal("nowhere.a", b"\xc0", 8),
        lambda: field.seal("work.a", b"\xc0", 8),
        lambda: field.seal("flash.a", b"\xc0", 8),
        lambda: field.seal("goods.a", b"\xc0", 8, ttl_ms=3_600_000),
        lambda: field.seal("goods.a", b"\xc0", 8, schema="none", schema_version=1),
        lambda: field.seal("goods.a", b"\xc1", 8),
        lambda: field.seal("caused.a", b"\xc0", 8),
        lambda: field.seal("rated.a", b"\xc0", 8),
    ]
    await flood(field, lambda: b"".join(field.frames(make()) for make in makes))


@ATTACKS.named("durable-subscriptions")
async def durable_subscriptions(field: Field) -> None:
    """Durable subscriptions, each under a new name."""
    async with Bot(field.credentials) as bot:
        field.begin()
        number = 0
        while field.goes_on:
            number += 1
            question = {"pattern": "goods.*", "durable": f"place-{number}", "from": "new"}
            try:
                await bot.request(SUBSCRIBE, question, timeout=30.0)
                field.counts["made"] += 1
            except SealbusError as error:
                field.counts[f"refused: {type(error).__name__}"] += 1


@ATTACKS.named("pulls")
async def pulls_for_another(field: Field) -> None:
    """Requests for stored messages, in the name of another bot's inbox."""
    async with Bot(field.credentials) as bot:
        question = {"pattern": "goods.*", "durable": "own", "from": "all"}
        await bot.request(SUBSCRIBE, question, timeout=30.0)
        for _ in range(400):
            await bot.publish("goods.a", "x" * 60_000, timeout=60.0)
    name = consumer_name(field.credentials.bot, "goods.*", "own")
    session = await field.login([name])
    field.begin()
    ask = json.dumps({"batch": MAX_PULL, "no_wait": True}).encode()
    asks = pub(f"$JS.API.CONSUMER.MSG.NEXT.ACCEPTED.{name}", ask, f"inbox.{HONEST[0]}.x")
    while field.goes_on:
        if not await session.say(asks, within_s=30.0):
            session = await field.login([name])
        field.counts["requests"] += 1
        field.counts["bytes"] += len(asks)


@ATTACKS.named("subscriber")
async def subscriber_memory(field: Field) -> None:
    """Payloads that decode to many times their size, for a bot that handles them slowly."""
    await flood(field, sealed(field, "flash.a", MANY_VALUES, 31, live=True))
