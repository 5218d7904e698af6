"""The attacker's means, and the code that makes its messages.

The means are the line of the order bot, a bot of low rank, and keys of its own.
"""

from __future__ import annotations

import asyncio
import base64
import os
import time
from collections.abc import Callable
from typing import Any

from examples.robbery.cues import tell
from examples.robbery.frames import Frame, RawSession, pub
from examples.robbery.wiretap import Change, Wiretap
from sealbus import Credentials, Stamp, Verdict
from sealbus.protocol.admission import AdmissionText
from sealbus.protocol.certificate import SessionKey
from sealbus.protocol.codec import pack_json, split_sealed
from sealbus.protocol.delivery import pack_delivery
from sealbus.protocol.envelope import Draft, Envelope, Header, Parent, seal_envelopes
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus.protocol.limits import SALT_BYTES
from sealbus.protocol.seal import sign_connect
from sealbus.protocol.stamp import seal_stamps
from sealbus.sending.minting import new_nonce

Sent = list[bytes]
"""Bodies that an attempt has sent: the director looks for them by their SHA-256."""

FAKE_ORDER = {
    "order_id": "ord-666666",
    "customer": "cus-6666",
    "placed_at": "2026-11-24T08:00:00Z",
    "currency": "EUR",
    "items": [{"sku": "ROB-2000", "quantity": 100, "unit_price_cents": 1}],
    "ship_to": {
        "name": "A. Thief",
        "street": "Dock 13",
        "city": "Nowhere",
        "postcode": "00000",
        "country": "XX",
    },
}


CUT_OFF_S = 10.0
"""How long the bus may take to end a session. A relay needs about half a second."""


class Thief:
    """The attacker's means."""

    def __init__(self, host: str, port: int, scraper: Credentials) -> None:
        self.host, self.port = host, port
        self.scraper = scraper
        self.tap = Wiretap(host, port, "order")
        self.key = SigningKey.generate(KeyKind.BOT)
        """A key that the attacker made."""
        self.bus_key = SigningKey.generate(KeyKind.BUS)
        """A relay key that the attacker made."""
        self.loot: Credentials | None = None
        """Stolen credentials, in the last act."""
        self._sessions: dict[str, RawSession] = {}

    async def next_order(self, change: Change | None = None) -> Frame:
        """Tell the director that the attacker waits, and wait."""
        waiting = self.tap.next_order(change)
        tell("armed")
        return await waiting

    async def knock(self, token: str | None, sign: Callable[[bytes], bytes] | None) -> bool:
        """Try to log in once. ``sign`` answers the challenge. Returns whether it worked."""
        session = await RawSession.open(self.host, self.port)
        signature = (
            None if sign is None else base64.b64encode(sign(session.challenge.encode())).decode()
        )
        admitted = await session.login(token, signature)
        await session.close()
        return admitted

    async def session_of(self, credentials: Credentials) -> RawSession:
        """A session as a bot whose credentials the attacker has."""
        session = self._sessions.get(credentials.bot)
        if session is None or not await session.say(b""):
            session = await RawSession.open(self.host, self.port)
            key = credentials.new_session_key(now_ms())
            token = AdmissionText.of(key, credentials.bot).encode()
            signature = sign_connect(key.key, session.challenge.encode(), token.encode())
            await session.login(token, base64.b64encode(signature).decode())
            self._sessions[credentials.bot] = session
        return session

    async def until_cut_off(self, credentials: Credentials) -> None:
        """Wait until the bus has ended the attacker's session as a bot. Raises ``TimeoutError``."""
        session = self._sessions.pop(credentials.bot)
        async with asyncio.timeout(CUT_OFF_S):
            while await session.say(b""):  # noqa: ASYNC110  # another process ends it
                await asyncio.sleep(0.05)

    async def as_scraper(self, data: bytes) -> None:
        """Send raw frames as scraper."""
        await (await self.session_of(self.scraper)).say(data)

    async def send(self, envelope: bytes, *, live: bool = False) -> Sent:
        """Send an envelope as scraper."""
        await self.as_scraper(pub("call.scraper" if live else "send.scraper", envelope))
        return [envelope]

    def inject(self, envelope: bytes, *, live: bool = False) -> Sent:
        """Send an envelope in order's session."""
        self.tap.inject(pub("call.order" if live else "send.order", envelope))
        return [envelope]

    def stolen_parent(self) -> tuple[bytes, bytes]:
        """A real order's envelope, and the relay's own stamp on it, as they passed."""
        envelopes = {Envelope.decode(envelope).digest: envelope for envelope in self.tap.orders}
        for sealed_stamp in reversed(self.tap.stamps):
            stamp = _read(sealed_stamp)
            if stamp.verdict is Verdict.ACCEPTED and stamp.envelope in envelopes:
                return envelopes[stamp.envelope], sealed_stamp
        raise LookupError("no order has passed")

    def stolen_question(self) -> tuple[bytes, bytes]:
        """The nonce of a question from order, and the relay's stamp on it."""
        for sealed_stamp in reversed(self.tap.stamps):
            stamp = _read(sealed_stamp)
            if stamp.subject == "stock.check":
                return stamp.nonce, sealed_stamp
        raise LookupError("no question has passed")

    def forged_stamp(self, envelope: bytes, header: Header) -> bytes:
        """A stamp that says that the relay accepted ``envelope``.

        It is valid except for its key.
        """
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
            judged_at_ms=now_ms(),
            relay="relay-1",
            store_by_ms=now_ms() + 60_000,
        )
        return seal_stamps(self.bus_key, [stamp])[0]

    def forged_delivery(self, bot: str, subject: str, payload: Any) -> tuple[bytes, bytes]:
        """A forged delivery, and the parent that its subscriber could quote."""
        header = draft(bot, subject)
        envelope = sealed(self.key, header, payload)
        stamp = self.forged_stamp(envelope, header)
        return pack_delivery(envelope, stamp), Parent(stamp, quote=envelope).encode()


def _read(sealed_stamp: bytes) -> Stamp:
    body, _, _ = split_sealed(sealed_stamp)
    return Stamp.decode(body)


def now_ms() -> int:
    """Milliseconds since 1970 UTC."""
    return time.time_ns() // 1_000_000


def draft(bot: str, subject: str, **fields: Any) -> Header:
    """A valid header, except for ``fields``."""
    issued_at_ms = fields.get("issued_at_ms", now_ms())
    plain: dict[str, Any] = {
        "bus": "shop",
        "nonce": new_nonce(issued_at_ms),
        "issued_at_ms": issued_at_ms,
        "ttl_ms": 4000,
    }
    return Header(**{**plain, "bot": bot, "subject": subject, **fields})


def sealed(key: SigningKey, header: Header, payload: Any, parent: bytes | None = None) -> bytes:
    """An envelope with one payload. ``key`` certifies a session key, as a bot's own key does."""
    session_key = SessionKey.make(key, bus=header.bus, bot=header.bot, now_ms=now_ms())
    return sealed_by(session_key, header, payload, parent)


def sealed_by(
    key: SessionKey | SigningKey, header: Header, payload: Any, parent: bytes | None = None
) -> bytes:
    """An envelope with one payload, sealed by ``key`` itself."""
    salted = os.urandom(SALT_BYTES) + pack_json(payload)
    return seal_envelopes(key, [Draft(header, [salted], parent)])[0].data
