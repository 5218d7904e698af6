"""Attacks on Sealbus: raw frames in raw sessions, envelopes made by hand."""

from __future__ import annotations

import asyncio
import base64
import time
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgpack

from benchmarks.attacking.attacker import (
    AHEAD_S,
    FAKE,
    GARBAGE,
    HONEST,
    INVALID,
    LONG_S,
    Attacker,
    changed,
    seen,
)
from benchmarks.attacking.nats import imitated
from benchmarks.attacking.tap import Tap
from benchmarks.bus import BUS
from examples.robbery.frames import FrameReader, RawSession, pub
from sealbus import Credentials, Stamp, Verdict
from sealbus.protocol.admission import AdmissionText
from sealbus.protocol.certificate import SessionKey
from sealbus.protocol.codec import pack_fields, pack_json, unpack_json
from sealbus.protocol.delivery import pack_delivery
from sealbus.protocol.envelope import Draft, Envelope, Header, seal_envelopes
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus.protocol.limits import SALT_BYTES
from sealbus.protocol.seal import Seal, sign_connect
from sealbus.protocol.stamp import seal_stamps
from sealbus.sending.minting import new_nonce, salted

TTL_MS: Final = 4000
SKEW_S: Final = 2.2
"""A little more than ``clock_skew``, which makes the life of an envelope longer."""
REVOKED: Final = "s0-revoked"
"""The credentials file with the revoked key of ``s0``."""


class OnSealbus(Attacker):
    """It may send in the open session of ``s0``, like an attacker on the line of ``s0``.

    It has the key of ``s0`` only if the attack needs it.
    """

    def __init__(self, setup: dict[str, Any]) -> None:
        super().__init__(setup)
        self._owner, self._lesser = self._credentials("s0"), self._credentials("s1")
        self._port = urlsplit(self._owner.servers[0]).port or 0
        self._tap = Tap(self._port)
        self._sessions: dict[str, RawSession] = {}
        self._captured = b""

    def _credentials(self, name: str) -> Credentials:
        return Credentials.load(self.setup["credentials"].format(bot=name))

    async def open(self, folder: Path) -> dict[str, Any]:
        """Open the sessions, and sit on the receivers' line."""
        port = await self._tap.open()
        for bot in ("r0", "r1"):
            honest = self._credentials(bot)
            tapped = Credentials(
                honest.bus, bot, honest.key, (f"nats://127.0.0.1:{port}",), honest.bus_keys
            )
            tapped.write(folder / f"{bot}.toml")
        for credentials in (self._owner, self._lesser):
            self._sessions[credentials.bot] = await self._login(credentials)
        return {**self.setup, "credentials": str(folder / "{bot}.toml")}

    async def close(self) -> None:
        """Hang up."""
        for session in self._sessions.values():
            await session.close()
        await self._tap.close()

    async def _login(self, credentials: Credentials) -> RawSession:
        session = await RawSession.open("127.0.0.1", self._port)
        key = credentials.new_session_key(_now_ms())
        admission = AdmissionText.of(key, credentials.bot).encode()
        answer = sign_connect(key.key, session.challenge.encode(), admission.encode())
        await session.login(admission, base64.b64encode(answer).decode())
        return session

    async def _send(self, envelope: bytes, session: str = "s0") -> None:
        await self._sessions[session].say(pub(f"send.{session}", envelope))

    async def honest(self) -> None:
        self._captured = _sealed(self._owner.key_in_memory, _header(), HONEST)
        await self._send(self._captured)

    async def anonymous(self) -> None:
        session = await RawSession.open("127.0.0.1", self._port)
        await session.login(None, None)
        await session.say(
            pub("send.s0", _sealed(SigningKey.generate(KeyKind.BOT), _header(), FAKE))
        )
        await session.close()

    async def garbage(self) -> None:
        await self._send(GARBAGE, "s1")

    async def unsigned(self) -> None:
        envelope = _sealed(self._lesser.key_in_memory, _header("s1", "orders.p1"), FAKE)
        nothing = Seal(self._lesser.key.public.raw, bytes(64), 0, ())
        await self._send(_with(envelope, seal=nothing.encode()), "s1")

    async def altered(self) -> None:
        (order,) = msgpack.unpackb(self._captured)[3]
        salt, payload = order[:SALT_BYTES], order[SALT_BYTES:]
        altered = salt + pack_json(changed(unpack_json(payload)))
        await self._send(_with(self._captured, payloads=[altered]))

    async def other_name(self) -> None:
        for session in ("s1", "s0"):
            await self._send(_sealed(self._lesser.key_in_memory, _header(), FAKE), session)

    async def replay(self) -> None:
        for session in ("s0", "s1"):
            await self._send(self._captured, session)
        # And the genuine delivery, once more, to the receiver.
        await seen(lambda: self._tap.saw(self._captured))
        delivery = self._delivery()
        self._tap.inject(lambda line: imitated(line, self._captured, delivery))

    async def replay_late(self) -> None:
        kept = _sealed(self._owner.key_in_memory, _header(ttl_ms=1), HONEST)
        # It waits. A backdated envelope would also be older than this bus: another check stops it.
        await asyncio.sleep(SKEW_S)
        await self._send(kept)

    async def other_receiver(self) -> None:
        fields = msgpack.unpackb(msgpack.unpackb(self._captured)[1])
        fields[2] = "orders.p1"
        await self._send(_with(self._captured, header=msgpack.packb(fields)))
        # And the genuine delivery, on the line where the other receiver's deliveries arrive.
        ours = _sealed(self._lesser.key_in_memory, _header("s1", "orders.p1"), HONEST)
        self.meant += 1
        await self._send(ours, "s1")
        await seen(lambda: self._tap.saw(self._captured) and self._tap.saw(ours))
        delivery = self._delivery()
        self._tap.inject(lambda line: imitated(line, ours, delivery))

    async def injected(self) -> None:
        header = _header()
        envelope = _sealed(SigningKey.generate(KeyKind.BOT), header, FAKE)
        await seen(lambda: self._tap.saw(self._captured))
        self._tap.inject(
            lambda line: imitated(
                line, self._captured, pack_delivery(envelope, _stamped(envelope, header))
            )
        )

    async def not_granted(self) -> None:
        await self._send(_sealed(self._lesser.key_in_memory, _header("s1"), FAKE), "s1")

    async def schema(self) -> None:
        await self._send(_sealed(self._owner.key_in_memory, _header(), INVALID))

    async def named_twice(self) -> None:
        packer = msgpack.Packer(autoreset=False)
        packer.pack_map_header(len(FAKE) + 1)
        for name, value in (("currency", "GBP"), *FAKE.items()):
            packer.pack(name)
            packer.pack(value)
        await self._send(_sealed_bytes(self._owner.key_in_memory, _header(), packer.bytes()))

    async def same_id(self) -> None:
        nonce = Envelope.decode(self._captured).header.nonce
        await self._send(_sealed(self._owner.key_in_memory, _header(nonce=nonce), FAKE))

    async def future(self) -> None:
        await self._send(
            _sealed(
                self._owner.key_in_memory, _header(issued_at_ms=_now_ms() + AHEAD_S * 1000), FAKE
            )
        )

    async def long_life(self) -> None:
        await self._send(_sealed(self._owner.key_in_memory, _header(ttl_ms=LONG_S * 1000), FAKE))

    async def revoked(self) -> None:
        old = self._credentials(REVOKED)
        session = await self._login(old)
        await session.say(pub("send.s0", _sealed(old.key_in_memory, _header(), FAKE)))
        await session.close()
        await self._send(_sealed(old.key_in_memory, _header(), FAKE))

    def _delivery(self) -> bytes:
        """The genuine delivery of the captured message, as it passed."""
        for line in self._tap.lines:
            for frame in FrameReader().feed(bytes(line.seen)):
                if self._captured in frame.payload:
                    return frame.payload
        raise LookupError("no delivery has passed")


def _header(bot: str = "s0", subject: str = "orders.p0", **fields: Any) -> Header:
    """A valid header, except for ``fields``."""
    issued_at_ms = fields.get("issued_at_ms", _now_ms())
    plain: dict[str, Any] = {
        "nonce": new_nonce(issued_at_ms),
        "issued_at_ms": issued_at_ms,
        "ttl_ms": TTL_MS,
    }
    return Header(bus=BUS, bot=bot, subject=subject, **{**plain, **fields})


def _sealed(key: SigningKey, header: Header, payload: Any) -> bytes:
    return _sealed_bytes(key, header, pack_json(payload))


def _sealed_bytes(key: SigningKey, header: Header, payload: bytes) -> bytes:
    certified = SessionKey.make(key, bus=header.bus, bot=header.bot, now_ms=_now_ms())
    return seal_envelopes(certified, [Draft(header, [salted(payload)])])[0].data


def _with(envelope: bytes, **changes: Any) -> bytes:
    """The envelope with other parts: ``header``, ``payloads`` or ``seal``."""
    version, header, parent, payloads, seal = msgpack.unpackb(envelope)
    parts = {"header": header, "parent": parent, "payloads": payloads, "seal": seal} | changes
    return pack_fields((version, *parts.values()))


def _stamped(envelope: bytes, header: Header) -> bytes:
    """A stamp that says that the relay has accepted ``envelope``: valid, except for the key."""
    stamp = Stamp(
        bus=header.bus,
        envelope=Envelope.decode(envelope).digest,
        bot=header.bot,
        subject=header.subject,
        nonce=header.nonce,
        verdict=Verdict.ACCEPTED,
        reason=None,
        detail=None,
        policy=bytes(32),
        position=1,
        judged_at_ms=_now_ms(),
        relay="relay0",
        store_by_ms=_now_ms() + 60_000,
    )
    return seal_stamps(SigningKey.generate(KeyKind.BUS), [stamp])[0]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
